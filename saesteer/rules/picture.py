"""Proof trees as pictures: one SVG each, with its own style, no script and nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

STEP, INDENT, GLYPH, LEFT = 46, 30, 7.2, 14
STYLE = (
    ".proof text{font:13px ui-monospace,Menlo,monospace;fill:#1d2330}"
    ".proof .why{font-size:11px;fill:#5a6375}.proof rect{fill:#fff;stroke:#1f7a55;stroke-width:1.5}"
    ".proof .no rect{stroke:#b3402a;stroke-dasharray:5 3}"
    ".proof path{fill:none;stroke:#a3a9b5;stroke-width:1.5}"
)


def draw_proof(proof: Mapping[str, Any]) -> str:
    """An SVG of what `Proof.as_dict` gave: a box a step, green if it holds, dashed if not."""
    rows = _rows(proof, 0)
    words = [(depth, *_words(step)) for depth, step, _ in rows]
    widths = [LEFT * 2 + INDENT * d + GLYPH * max(map(len, told)) + 24 for d, *told in words]
    boxes = "".join(_box(i, rows[i][0], rows[i][1], words[i][1:]) for i in range(len(rows)))
    lines = "".join(_line(parent, i, rows[parent][0]) for i, (_, _, parent) in enumerate(rows) if i)
    width, height = int(max(widths)) + 1, STEP * len(rows) + 10
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="proof" viewBox="0 0 {width} {height}" '
        f'style="max-width:{width}px;background:#fbfaf8" role="img"><style>{STYLE}</style>'
        f"<title>{escape(proof['literal'])}</title>{lines}{boxes}</svg>"
    )


def proof_page(proofs: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """A whole HTML document of titled proofs."""
    parts = "".join(f"<h2>{escape(title)}</h2>{draw_proof(proof)}" for title, proof in proofs)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Proofs</title>'
        "<style>body{font:16px system-ui,sans-serif;margin:24px;background:#fbfaf8;color:#1d2330}"
        "h2{font-size:1rem}svg{display:block;width:100%}</style></head>"
        f"<body>{parts or '<p>No conclusion holds.</p>'}</body></html>\n"
    )


def _rows(step: Mapping[str, Any], depth: int) -> list[tuple[int, Mapping[str, Any], int]]:
    """Depth, step and parent's row of every step, top down."""
    rows: list[tuple[int, Mapping[str, Any], int]] = [(depth, step, 0)]
    for child in step["because"]:
        below = _rows(child, depth + 1)
        start = len(rows)
        rows += [(d, s, start + p if i else 0) for i, (d, s, p) in enumerate(below)]
    return rows


def _words(step: Mapping[str, Any]) -> tuple[str, str]:
    verdict = "is unknown" if step.get("unknown") else "does not hold"
    told = step["literal"] if step["holds"] else f"{step['literal']}: {verdict}"
    leaf = step.get("leaf")
    if leaf is None:
        return told, step.get("rule") or step.get("note", "")
    score = "nothing" if leaf["score"] is None else f"{leaf['score']:.4g}"
    why = f"{leaf['readout']}: {score} against {leaf['threshold']:g}"
    over = "" if leaf["aggregate"] == "token" else f", {leaf['aggregate']}"
    return told, f"{why}{over}, token {leaf['position']} {leaf['token']!r}"


def _box(i: int, depth: int, step: Mapping[str, Any], words: tuple[str, ...]) -> str:
    x, y = LEFT + INDENT * depth, STEP * i + 6
    width, css = GLYPH * max(map(len, words)) + 20, "yes" if step["holds"] else "no"
    first, second = (escape(word) for word in words)
    return (
        f'<g class="{css}"><rect x="{x}" y="{y}" width="{width:.0f}" height="38" rx="6"/>'
        f'<text x="{x + 10}" y="{y + 16}">{first}</text>'
        f'<text class="why" x="{x + 10}" y="{y + 31}">{second}</text></g>'
    )


def _line(parent: int, i: int, depth: int) -> str:
    x, top, y = LEFT + INDENT * depth + 12, STEP * parent + 44, STEP * i + 25
    return f'<path d="M{x} {top}V{y}H{x + INDENT - 12}"/>'
