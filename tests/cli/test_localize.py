"""`saesteer localize` end to end on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saesteer import localize
from saesteer.cli.localizers import LOCALIZERS
from saesteer.localize import Localizer

PAIR = [
    {"prompt": "a b c d", "text": " x", "label": 1, "pair": "0"},
    {"prompt": "a q c d", "text": " z", "label": 0, "pair": "0"},
]


@pytest.fixture
def swaps(tmp_path: Path) -> Path:
    path = tmp_path / "swaps.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIR))
    return path


@pytest.mark.parametrize(
    ("method", "options", "first"),
    [
        ("patching", ("--kind", "head_out"), "head_out"),
        ("attribution", ("--by", "unit", "--kind", "neurons"), "neurons"),
        ("atp", ("--by", "site"), "resid_post"),
        ("relp", (), "resid_post"),
        ("nodes", ("--sae", "SAE"), "resid_post.2["),
        ("voids", (), "resid_post"),
    ],
)
def test_each_method_prints_a_table_and_writes_json(
    run: Any, disk: Path, swaps: Path, tmp_path: Path, method: str, options: Any, first: str
) -> None:
    out = tmp_path / "ranked.json"
    chosen = [disk / "sae" if option == "SAE" else option for option in options]
    args = ("localize", method, swaps, *chosen, "--model", disk / "model", "--top", 3)
    done = run(*args, "--json", out)
    assert done.status == 0, done.err
    found = json.loads(out.read_text())
    assert 0 < len(found["places"]) <= 3
    assert found["places"][0]["place"].startswith(first)
    assert found["places"][0]["place"] in done.out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("guess",), "localize has no method 'guess'; choose from patching, attribution, atp"),
        (("nodes",), "localize nodes reads features; give --sae"),
        (("voids", "--kind", "mlp_out"), "localize voids has no --kind"),
        (("patching", "--by", "unit"), "--by is 'unit'; choose from position, site"),
    ],
)
def test_a_wrong_setting_is_one_line(
    run: Any, disk: Path, swaps: Path, args: Any, message: str
) -> None:
    method, *options = args
    done = run("localize", method, swaps, *options, "--model", disk / "model")
    assert done.status == 2
    assert message in done.err
    assert done.err.count("\n") == 1


def test_every_localizer_has_a_name_on_the_command_line() -> None:
    every = [getattr(localize, name) for name in localize.__all__]
    kinds = [k.__name__ for k in every if issubclass(k, Localizer) and k is not Localizer]
    assert sorted(kinds) == sorted(offered.kind for offered in LOCALIZERS.values())
