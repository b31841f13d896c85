"""The page: whole, self-contained, escaped, and made from the results alone."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from saesteer.errors import OutputError
from saesteer.evals.report import join_results, render, write_report

VOID = {"meta", "link", "line", "br", "hr", "img", "input"}
FEATURES = [
    {"index": 55, "gloss": "joy & <delight>", "promoted": [{"token": " happy", "weight": 1.2}],
     "suppressed": [[" sad", -1.0], " grim"]},
]  # fmt: skip
RULES = {"fired": {"calm": 3}, "explained": "token 4: calm :- joy, not <rage>.", "source": "calm"}
SAE = {"fvu_per_token": 0.1, "l0": 32.1, "delta_ce": 0.05, "dead_fraction": 0.0, "n_tokens": 4096}


class Page(HTMLParser):
    """Reads a page, checks that tags nest, and keeps what it names and says."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.said: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in {"src", "href", "xlink:href", "srcset"}]
        self.ids |= {v for k, v in attrs if k == "id" and v}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"{tag} closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def full_page(make: SimpleNamespace) -> str:
    """A page with every section."""
    return render(make.results(features=FEATURES, rules=RULES, sae=SAE))


def test_tags_nest_and_the_parts_are_there(make: SimpleNamespace) -> None:
    page = Page(full_page(make))
    assert page.open == []
    assert {"task-sentiment", "features", "rules", "sae", "settings"} <= page.ids
    assert page.tags.count("svg") == 2
    said = " ".join(page.said)
    for words in ("Feature raised the score", "saesteer compare X", " happy", "32.1", " grim"):
        assert words in said


def test_nothing_is_fetched(make: SimpleNamespace) -> None:
    html = full_page(make)
    page = Page(html)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert page.links
    assert not {"script", "img", "iframe", "object", "embed"} & set(page.tags)
    for word in ("http:", "https:", "@import", "url(", "@font-face"):
        assert word not in html


def test_links_within_the_page_lead_somewhere(make: SimpleNamespace) -> None:
    page = Page(full_page(make))
    inner = {link[1:] for link in page.links if link.startswith("#")}
    assert inner
    assert inner <= page.ids


def test_text_from_models_and_users_is_escaped(make: SimpleNamespace) -> None:
    html = full_page(make)
    assert "<b>bright</b>" not in html
    assert "&lt;b&gt;bright&lt;/b&gt;" in html
    said = "".join(Page(html).said)
    for words in ("Prompt <0>", "joy & <delight>", "not <rage>.", "a day & a night"):
        assert words in said


@pytest.mark.parametrize("key", ["method", "task", "unit", "name"])
def test_no_name_can_break_out_of_the_page(make: SimpleNamespace, key: str) -> None:
    evil = '"><script>alert(1)</script>'
    content = json.loads(json.dumps(make.results()), object_hook=lambda o: {
        k: evil if k == key and isinstance(v, str) else v for k, v in o.items()
    })  # fmt: skip
    html = render(content)
    assert "<script" not in html
    assert Page(html).open == []


def test_a_page_of_little_is_still_a_page() -> None:
    assert Page(render({})).open == []
    assert Page(render({"model": "tiny", "compare": [], "sae": None})).open == []


def test_samples_beyond_the_first_wait_behind_a_click(make: SimpleNamespace) -> None:
    before, _, after = full_page(make).partition("<details>")
    assert "Prompt &lt;2&gt;" in before
    assert "Prompt &lt;3&gt;" not in before
    assert "Prompt &lt;3&gt;" in after


def test_several_tasks_stand_on_one_page(make: SimpleNamespace) -> None:
    other: dict[str, Any] = json.loads(json.dumps(make.results()).replace("sentiment", "ocean"))
    joined = join_results(make.results(), other, seconds=99.0)
    assert len(joined["compare"]) == 10
    assert joined["seconds"] == 99.0
    page = Page(render(joined))
    assert {"task-sentiment", "task-ocean"} <= page.ids
    assert page.tags.count("svg") == 4


def test_results_and_page_are_written_whole(make: SimpleNamespace, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    page = write_report(make.results(odd=float("nan"), far=math.inf, at=tmp_path), folder)
    assert page == folder / "report.html"
    assert page.read_text().startswith("<!doctype html>")
    results = json.loads((folder / "results.json").read_text())
    assert results["odd"] is None
    assert results["far"] is None
    assert results["at"] == str(tmp_path)
    assert render(results) == page.read_text()
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "results.json"]


def test_a_folder_that_cannot_be_written_is_one_clear_line(
    make: SimpleNamespace, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"results\.json can't be written: "):
        write_report(make.results(), tmp_path / "file" / "out")
