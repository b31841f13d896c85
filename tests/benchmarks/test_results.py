"""The README's table of methods is the committed result, row by row."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = json.loads((Path(__file__).parent / "results" / "every_method.json").read_text())
TABLE = re.compile(r"^\| (\w+) \| [^|]+ \| (-?[\d.]+) \([^|]+\) \| [^|]+ \|.*\| (\w+) \|$", re.M)


@pytest.mark.parametrize("row", RESULTS["rows"], ids=lambda row: row["method"])
def test_the_readme_says_what_was_measured(row: dict) -> None:
    told = {name: found for name, *found in TABLE.findall((ROOT / "README.md").read_text())}
    effect, verdict = told[row["method"]]
    assert float(effect) == pytest.approx(row["effect"], abs=0.0051)
    assert verdict == row["verdict"]


def test_only_effects_beyond_every_control_are_called_working() -> None:
    for row in RESULTS["rows"]:
        overs = [row.get("over_random"), row["over_scrambled"]]
        beyond = all(over[1] > 0 for over in overs if over)
        assert beyond == (row["verdict"] == "works"), row["method"]
