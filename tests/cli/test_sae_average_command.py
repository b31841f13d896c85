"""`saesteer sae average`: the mean of SAEs of one start is saved, and bad input is one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saesteer.saes import load_sae, save_sae


@pytest.fixture
def other(disk: Path, tmp_path: Path) -> Path:
    """The SAE of the folder with its thresholds doubled."""
    sae = load_sae(disk / "sae")
    return save_sae(replace(sae, threshold=2 * sae.threshold), tmp_path / "other")


def command(disk: Path, *more: Any) -> tuple[Any, ...]:
    return (
        "sae", "average", "--model", disk / "model", "--text", disk / "text.txt",
        "--max-tokens", 300, "--context", 32, "--quiet", *more,
    )  # fmt: skip


def test_it_saves_the_mean_with_the_l0_of_its_runs(
    run: Any, disk: Path, other: Path, tmp_path: Path
) -> None:
    report, out = tmp_path / "average.json", tmp_path / "mean"
    saes = [disk / "sae", other]
    done = run(*command(disk, *saes, "--weights", 3, 1, "--out", out, "--json", report))
    assert (done.status, done.err) == (0, "")
    assert "fvu_per_token" in done.out
    found = json.loads(report.read_text())
    assert [row["sae"] for row in found["scores"]] == [*map(str, saes), str(out)]
    first, second, mean = (row["l0"] for row in found["scores"])
    assert first > 1.1 * second
    assert mean == pytest.approx(0.75 * first + 0.25 * second, rel=0.01)
    old, new = load_sae(disk / "sae"), load_sae(found["sae"])
    assert new.w_dec.allclose(old.w_dec)
    factor = new.threshold / old.threshold
    assert 1.01 < factor.min() < 1.25
    assert factor.allclose(factor[:1])  # one for all
    assert new.metadata["averaged"] == 2


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ((), "two SAEs or more; 1 given"),
        (("nowhere",), "nowhere"),
        (("OTHER", "--weights", 1), "2 SAEs take 2 weights above 0"),
        (("OTHER", "--text", "nowhere.txt"), "nowhere.txt"),
        (("OTHER", "--context", 300), "rows of 300 tokens are too long"),
        (("OTHER", "--out", "OTHER"), "already holds an SAE; choose another folder"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_leaves_no_sae(
    run: Any, disk: Path, other: Path, tmp_path: Path, more: tuple[Any, ...], reason: str
) -> None:
    words = (*more, *(() if "--out" in more else ("--out", tmp_path / "mean")))
    told = [other if word == "OTHER" else word for word in words]
    before = load_sae(other).fingerprint()
    done = run(*command(disk, disk / "sae", *told))
    assert (done.status, done.out) == (2, "")
    assert len(done.err.strip().splitlines()) == 1
    assert reason in done.err
    assert not (tmp_path / "mean").exists()
    assert load_sae(other).fingerprint() == before
