"""Plots as hand-written SVG, so that the report stays one small file that asks nothing of anybody.

Every colour is a CSS class of the page, so the plots follow its light and dark modes and still
print; every mark has a `<title>`, so hovering shows its numbers without a script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10
from typing import Any

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 18, 52
N_TICKS = 6
N_COLOURS = 6
"""Series classes `s0`.. that the page's style sheet defines; controls are grey, classes `c0`.."""
X_NAME = "KL from the unsteered model, nats per token"
BEYOND = 1.75
"""The x axis ends at this multiple of the KL budget; what lies further is named in the caption."""


@dataclass(frozen=True)
class Axes:
    """A linear map from data to SVG units."""

    x_max: float
    y_min: float
    y_max: float

    def x(self, value: float) -> float:
        """Horizontal place of a value."""
        return LEFT + (WIDTH - LEFT - RIGHT) * value / self.x_max

    def y(self, value: float) -> float:
        """Vertical place of a value."""
        span = self.y_max - self.y_min
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.y_max - value) / span


def series_classes(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A CSS class for every method: colours in order for methods, greys for controls."""
    classes: dict[str, str] = {}
    counts = {"s": 0, "c": 0}
    for row in rows:
        kind = "c" if row.get("family") == "control" else "s"
        if row["method"] not in classes:
            classes[row["method"]] = f"{kind}{counts[kind] % N_COLOURS}"
            counts[kind] += 1
    return classes


def effect_against_kl(
    curves: Sequence[Mapping[str, Any]],
    chosen: Mapping[str, float],
    kl_budget: float,
    classes: Mapping[str, str],
    unit: str,
) -> tuple[str, list[str]]:
    """The main plot, and a note for every point that lies outside it.

    Args:
        curves: as in results.json: `method`, `swept`, `points` of `kl`, `effect`, `effect_ci`.
        chosen: the strength chosen on validation, by method; its point is drawn filled.
        unit: what the score counts, for the axis label.
    """
    axes = _axes(curves, kl_budget)
    body = [grid(axes, X_NAME, f"effect, {unit}"), _budget(axes, kl_budget)]
    notes: list[str] = []
    for curve in sorted(curves, key=lambda c: c.get("family") != "control"):
        css, method = classes.get(curve["method"], "c0"), curve["method"]
        inside = [p for p in curve["points"] if p["kl"] <= axes.x_max]
        notes += [
            f"{method} at KL {p['kl']:.2f}: effect {p['effect']:+.2f}"
            for p in curve["points"]
            if p["kl"] > axes.x_max
        ]
        body.append(_series(axes, method, css, inside, chosen.get(method), curve["swept"]))
    label = escape(f"Effect against KL; effect in {unit}")
    return svg(WIDTH, HEIGHT, label, body), notes


def _axes(curves: Sequence[Mapping[str, Any]], kl_budget: float) -> Axes:
    points = [p for c in curves for p in c["points"]]
    x_max = min(max([p["kl"] for p in points] + [1e-3]) * 1.05, BEYOND * kl_budget)
    inside = [p for p in points if p["kl"] <= x_max]
    low = min([p["effect_ci"][0] for p in inside] + [0.0])
    high = max([p["effect_ci"][1] for p in inside] + [0.0])
    pad = 0.06 * (high - low) or 0.5
    return Axes(x_max, low - pad, high + pad)


def grid(axes: Axes, x_name: str, y_name: str) -> str:
    """Grid lines, their numbers, and what the axes are."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    marks: list[str] = []
    for value in _ticks(axes.y_min, axes.y_max):
        y = axes.y(value)
        css = "zero" if abs(value) < 1e-12 else "grid"
        marks.append(f'<line class="{css}" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">')
        marks.append(f"{value + 0.0:.4g}</text>")
    for value in _ticks(0.0, axes.x_max):
        x = axes.x(value)
        marks.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        marks.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">')
        marks.append(f"{value + 0.0:.4g}</text>")
    middle = (TOP + bottom) / 2
    marks.append(
        f'<text class="axis" x="{(LEFT + right) / 2}" y="{HEIGHT - 10}" text-anchor="middle">'
        f"{escape(x_name)}</text>"
        f'<text class="axis" transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_name)}</text>"
    )
    return "".join(marks)


def _budget(axes: Axes, kl_budget: float) -> str:
    if kl_budget > axes.x_max:
        return ""
    x = axes.x(kl_budget)
    return (
        f'<line class="budget" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="tick" x="{x - 6:.1f}" y="{TOP + 12}" text-anchor="end">KL budget</text>'
    )


def _series(
    axes: Axes,
    method: str,
    css: str,
    points: Sequence[Mapping[str, Any]],
    chosen: float | None,
    swept: bool,
) -> str:
    parts = [f'<g class="series {css}">']
    if swept and points:
        ordered = sorted(points, key=lambda p: p["kl"])
        path = [(0.0, 0.0), *((p["kl"], p["effect"]) for p in ordered)]
        joined = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in path)
        parts.append(f'<polyline class="line" points="{joined}"/>')
    parts += [_mark(axes, method, point, chosen, swept) for point in points]
    return "".join([*parts, "</g>"])


def _mark(
    axes: Axes, method: str, point: Mapping[str, Any], chosen: float | None, swept: bool
) -> str:
    x, y = axes.x(point["kl"]), axes.y(point["effect"])
    low, high = (axes.y(value) for value in point["effect_ci"])
    picked = not swept or (chosen is not None and abs(point["strength"] - chosen) < 1e-9)
    radius = 6 if picked else 3.5
    title = escape(
        f"{method}: effect {point['effect']:+.3f} [{point['effect_ci'][0]:+.3f}, "
        f"{point['effect_ci'][1]:+.3f}] at KL {point['kl']:.2f}, dose {point['relative_dose']:.2f}"
    )
    shape = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
        if swept
        else f'<path d="M{x:.1f} {y - 7:.1f}l7 7-7 7-7-7z"/>'
    )
    css = "mark chosen" if picked else "mark"
    return (
        f'<g class="{css}"><title>{title}</title>'
        f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        f"{shape}</g>"
    )


def forest(rows: Sequence[Mapping[str, Any]], classes: Mapping[str, str], label: str) -> str:
    """Differences with their intervals, one line a comparison; `rows` have `label`, `method`,
    `difference` and `ci`. An empty text when there is nothing to draw."""
    if not rows:
        return ""
    left, line, height = 300, 30, 30 * len(rows) + 44
    low = min([r["ci"][0] for r in rows] + [0.0])
    high = max([r["ci"][1] for r in rows] + [0.0])
    pad = 0.05 * (high - low) or 0.5
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return left + (WIDTH - left - RIGHT) * (value - low) / (high - low)

    body = [_forest_axis(x, low, high, height)]
    for index, row in enumerate(rows):
        y = 8 + line * (index + 0.5)
        text = f"{row['difference']:+.3f} [{row['ci'][0]:+.3f}, {row['ci'][1]:+.3f}]"
        body.append(
            f'<g class="series {classes.get(row["method"], "c0")}"><g class="mark chosen">'
            f"<title>{escape(text)}</title>"
            f'<line class="whisker" x1="{x(row["ci"][0]):.1f}" x2="{x(row["ci"][1]):.1f}" '
            f'y1="{y}" y2="{y}"/><circle cx="{x(row["difference"]):.1f}" cy="{y}" r="6"/></g></g>'
            f'<text class="name" x="{left - 14}" y="{y + 4}" text-anchor="end">'
            f"{escape(row['label'])}</text>"
        )
    return svg(WIDTH, height, escape(label), body)


def _forest_axis(x: Any, low: float, high: float, height: int) -> str:
    parts: list[str] = []
    for value in _ticks(low, high):
        css = "zero" if abs(value) < 1e-12 else "grid"
        place = f"{x(value):.1f}"
        parts.append(f'<line class="{css}" x1="{place}" x2="{place}" y1="6" y2="{height - 34}"/>')
        parts.append(f'<text class="tick" x="{place}" y="{height - 14}" text-anchor="middle">')
        parts.append(f"{value + 0.0:.4g}</text>")
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two ends, about `N_TICKS` of them."""
    rough = (high - low) / N_TICKS
    power = 10 ** floor(log10(rough))
    step = next(float(m * power) for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    first = -floor(-low / step)
    return [float(round(i * step, 10)) for i in range(first, floor(high / step) + 1)]


def svg(width: int, height: int, label: str, body: Sequence[str]) -> str:
    """A picture of its parts, as wide as its place."""
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(body)}</svg>'
    )
