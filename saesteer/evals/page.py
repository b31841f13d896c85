"""The page that a report is printed on: one HTML file with its own style and nothing fetched.

No script, no font, no image from elsewhere. Everything that comes from data goes through `text`.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

ICON = "data:,"
"""An empty icon; a browser that finds none asks the server for one."""

STYLE = """
:root{color-scheme:light dark;--bg:#fbfaf8;--card:#fff;--ink:#1d2330;--soft:#5a6375;--rule:#e3e1dc;
--accent:#2f6fde;--s0:#2f6fde;--s1:#d9622b;--s2:#1f9d72;--s3:#9b4fd0;--s4:#c2357a;--s5:#a88414;
--c0:#7c8494;--c1:#a3a9b5;--c2:#5c6472;--tint:#f2f5fb;--good:#1f7a55;--bad:#b3402a}
@media (prefers-color-scheme:dark){:root{--bg:#14171d;--card:#1b2028;--ink:#e8eaee;--soft:#9ea7b8;
--rule:#313843;--accent:#7eacff;--s0:#7eacff;--s1:#ff9a63;--s2:#5fd0a5;--s3:#c792f3;--s4:#f27fb2;
--s5:#dcbb53;--c0:#98a1b1;--c1:#6f7888;--c2:#bcc3cf;--tint:#202734;--good:#6fd3a8;--bad:#ff937c}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.6 system-ui,-apple-system,
"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1040px;margin:0 auto;padding:48px 24px 80px}
h1{font-size:2rem;line-height:1.2;margin:0 0 4px;letter-spacing:-.02em}
h2{font-size:1.4rem;margin:56px 0 8px;letter-spacing:-.01em}
h3{font-size:1.02rem;margin:32px 0 8px}
p{margin:8px 0;max-width:72ch}.soft,figcaption,.note{color:var(--soft);font-size:.9rem}
nav{margin:16px 0 0;display:flex;flex-wrap:wrap;gap:4px 18px;font-size:.92rem}a{color:var(--accent)}
.verdict{background:var(--tint);border-left:4px solid var(--accent);border-radius:0 8px 8px 0;
padding:14px 20px;margin:20px 0}.verdict h3{margin:0 0 2px}.verdict p{margin:6px 0}
.scroll{overflow-x:auto;border:1px solid var(--rule);border-radius:10px;background:var(--card);
margin:12px 0}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:8px 12px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule)}
th:first-child,td:first-child{text-align:left}tr:last-child td{border-bottom:0}
th{font-weight:600;color:var(--soft);font-size:.82rem}td.wrap{white-space:normal;text-align:left;
min-width:180px}th.wrap{text-align:left}tr.control td{color:var(--soft)}
figure{margin:12px 0;background:var(--card);border:1px solid var(--rule);border-radius:10px;
padding:16px}figcaption{margin-top:6px;max-width:80ch}svg{display:block;width:100%;height:auto}
.tick,.axis,.name{font-size:12px;fill:var(--soft)}.name{fill:var(--ink);font-size:13px}
.grid{stroke:var(--rule);stroke-width:1}.zero{stroke:var(--soft);stroke-width:1.2}
.budget{stroke:var(--soft);stroke-dasharray:3 4}
.line{fill:none;stroke:var(--k);stroke-width:2;stroke-linejoin:round}
.mark{fill:var(--card);stroke:var(--k);stroke-width:2}.chosen{fill:var(--k)}
.whisker{stroke:var(--k);stroke-width:1.5;opacity:.55}
.s0{--k:var(--s0)}.s1{--k:var(--s1)}.s2{--k:var(--s2)}.s3{--k:var(--s3)}.s4{--k:var(--s4)}
.s5{--k:var(--s5)}.c0,.c3{--k:var(--c0)}.c1,.c4{--k:var(--c1)}.c2,.c5{--k:var(--c2)}
.series.c0 .line,.series.c1 .line,.series.c2 .line{stroke-dasharray:6 4;stroke-width:1.6}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;list-style:none;margin:0 0 8px;padding:0;
font-size:.88rem}.swatch{display:inline-block;width:11px;height:11px;border-radius:50%;
background:var(--k);margin-right:7px;vertical-align:-1px}
.sample{background:var(--card);border:1px solid var(--rule);border-radius:10px;margin:12px 0;
padding:14px 18px}.prompt{font-weight:600;margin:0 0 10px;max-width:none}
.texts{display:grid;grid-template-columns:repeat(auto-fit,minmax(260px,1fr));gap:14px 22px}
.texts p{margin:2px 0;font-size:.92rem;overflow-wrap:anywhere;white-space:pre-wrap}
.who{font-size:.78rem;font-weight:600;color:var(--k,var(--soft))}
.token{display:inline-block;background:var(--tint);border-radius:4px;padding:0 6px;
margin:1px 3px 1px 0;font:.84em ui-monospace,Menlo,Consolas,monospace;white-space:pre}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:12px 0}
dl div{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:10px 14px}
dt{color:var(--soft);font-size:.8rem}dd{margin:0;font-size:1.15rem;font-variant-numeric:tabular-nums}
pre{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:14px 16px;
overflow-x:auto;font:.85rem/1.5 ui-monospace,Menlo,Consolas,monospace}
details{margin:12px 0}summary{cursor:pointer;color:var(--accent)}
.good{color:var(--good)}.bad{color:var(--bad)}
@media print{main{max-width:none;padding:0}.sample,figure,.scroll{break-inside:avoid}}
"""


def text(value: Any) -> str:
    """Any value as HTML text: numbers to three places, None as a dash, the rest escaped."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return escape(str(value))


def number(value: float | None, places: int = 3, signed: bool = False) -> str:
    """A number for people: fixed places, thousands apart, a real minus; a dash for None or NaN."""
    if value is None or value != value:
        return "–"
    if abs(value) >= 1e6:
        return f"{value:.2e}".replace("-", "−")
    shown = f"{value:{'+' if signed else ''},.{1 if abs(value) >= 1000 else places}f}"
    return shown.replace("-", "−")


def interval(value: float | None, ends: Sequence[float] | None, places: int = 3) -> str:
    """A signed number with its interval in brackets."""
    if value is None or ends is None:
        return "–"
    low, high = (number(end, places, signed=True) for end in ends)
    return f"{number(value, places, signed=True)} [{low}, {high}]"


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    classes: Sequence[str] = (),
    wrap: Sequence[int] = (),
) -> str:
    """A table of cells that are HTML already.

    Args:
        classes: a CSS class for each row.
        wrap: columns that hold prose and may break lines.
    """

    def cells(tag: str, values: Sequence[str]) -> str:
        css = [' class="wrap"' if i in wrap else "" for i in range(len(values))]
        return "".join(f"<{tag}{c}>{v}</{tag}>" for c, v in zip(css, values, strict=True))

    styled = [*classes, *[""] * (len(rows) - len(classes))]
    body = "".join(
        f'<tr class="{css}">{cells("td", row)}</tr>' if css else f"<tr>{cells('td', row)}</tr>"
        for row, css in zip(rows, styled, strict=True)
    )
    return (
        f'<div class="scroll"><table><thead><tr>{cells("th", head)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def facts(pairs: Sequence[tuple[str, Any]]) -> str:
    """Named numbers side by side."""
    items = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in pairs)
    return f"<dl>{items}</dl>"


def page(title: str, body: str) -> str:
    """A whole document around `body`, which is HTML already."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{text(title)}</title><link rel="icon" href="{ICON}">'
        f"<style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )
