"""Write a comparison to disk: `results.json` for programs and `report.html` for people.

The page is made from the results alone, so it can be written again from a `results.json`. Both
files appear whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from saesteer.evals.page import page, text
from saesteer.evals.results import Report
from saesteer.evals.sections import (
    features_section,
    navigation,
    rules_section,
    sae_section,
    settings_section,
    task_section,
    tasks_of,
    verdict_box,
)
from saesteer.files import json_text, write_text

Results = Mapping[str, Any]
LISTS = ("compare", "curves", "equal_kl", "samples", "settings")
"""Keys whose lists carry a `task` in each entry, so that several reports simply join."""


def write_report(
    results: Report | Results, folder: str | Path, make_page: Callable[[Results], str] | None = None
) -> Path:
    """Write `results.json` and `report.html` into `folder`, and return the page's path.

    Args:
        results: a `Report`, its `to_dict()`, or several joined by `join_results`; `sae` (scores),
            `features` (each `index`, `gloss`, `promoted`, `suppressed`), `rules` (`fired`,
            `explained`, `source`), `seconds` and `reproduce` (a command) are printed where given.
        make_page: makes the page of results of another form.

    Raises:
        OutputError: the folder can't be made or written to.
    """
    place = Path(folder)
    content = json_text(_plain(results), 2, ascii_only=False)
    html = (make_page or render)(json.loads(content))
    write_text(place / "results.json", content + "\n")
    write_text(place / "report.html", html)
    return place / "report.html"


def join_results(*results: Report | Results, **extra: Any) -> dict[str, Any]:
    """Results of several tasks as one; other keys come from the first that has them, or `extra`."""
    joined: dict[str, Any] = {}
    for result in map(_plain, results):
        for key, value in result.items():
            if key in LISTS:
                joined[key] = [*joined.get(key, []), *value]
            elif joined.get(key) is None:
                joined[key] = value
    return {**joined, **extra}


def _plain(results: Report | Results) -> Results:
    return results.to_dict() if isinstance(results, Report) else results


def render(results: Results) -> str:
    """The whole page as HTML."""
    model = results.get("model", "a model")
    name = model.get("name", "a model") if isinstance(model, Mapping) else model
    title = f"Steering {name}"
    tasks = tasks_of(results)
    seconds = results.get("seconds")
    took = f" The whole run took {seconds:.0f} s." if seconds else ""
    about = f"{_counted(len(tasks), 'behaviour')}, every method at equal damage.{took}"
    body = "".join(
        (
            f"<header><h1>{text(title)}</h1><p class='soft'>{text(about)}</p>",
            f"{navigation(results)}</header>",
            verdict_box(results),
            *(task_section(results, task) for task in tasks),
            features_section(results.get("features") or []),
            rules_section(results.get("rules") or {}),
            sae_section(results.get("sae") or {}),
            settings_section(results),
        )
    )
    return page(title, body)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
