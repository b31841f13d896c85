"""`saesteer sae level`: an SAE whose kinds of text have equally many latents on, and bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from saesteer.saes import load_sae


@pytest.fixture
def texts(disk: Path, tmp_path: Path) -> list[Path]:
    """The text of the folder, and another."""
    other = tmp_path / "other.txt"
    other.write_text("The rain fell on the town by the sea. " * 200)
    return [disk / "text.txt", other]


def command(disk: Path, out: Path, texts: list[Path], *more: Any) -> tuple[Any, ...]:
    return (
        "sae", "level", disk / "sae", "--model", disk / "model", "--text", *texts,
        "--max-tokens", 300, "--context", 32, "--quiet", "--out", out, *more,
    )  # fmt: skip


def test_it_saves_an_sae_and_says_what_each_text_costs(
    run: Any, disk: Path, texts: list[Path], tmp_path: Path
) -> None:
    report, out = tmp_path / "levels.json", tmp_path / "level"
    done = run(*command(disk, out, texts, "--json", report))
    assert (done.status, done.err) == (0, "")
    found = json.loads(report.read_text())
    assert [row["text"] for row in found["levels"]] == [str(path) for path in texts]
    before = [row["l0_before"] for row in found["levels"]]
    assert all(row["l0_after"] <= 1.02 * sum(before) / 2 for row in found["levels"])
    assert "fvu_after" in done.out
    old, new = load_sae(disk / "sae"), load_sae(found["sae"])
    assert (new.w_enc == old.w_enc).all()
    assert 0.29 < (new.threshold / old.threshold).min() < (new.threshold / old.threshold).max()


def test_an_sae_is_not_overwritten(run: Any, disk: Path, texts: list[Path], tmp_path: Path) -> None:
    out = shutil.copytree(disk / "sae", tmp_path / "level")
    done = run(*command(disk, out, texts))
    assert (done.status, done.out) == (2, "")
    assert "already holds an SAE; choose another folder" in done.err
    assert load_sae(out).fingerprint() == load_sae(disk / "sae").fingerprint()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--l0", 0), "l0 = 0 can't be asked for"),
        (("--l0", 1e9), "number of"),
        (("--text", "nowhere.txt"), "nowhere.txt"),
        (("--context", 300), "rows of 300 tokens are too long"),
        (("--max-tokens", 1), "1 tokens can't level"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_leaves_no_sae(
    run: Any, disk: Path, texts: list[Path], tmp_path: Path, more: tuple[Any, ...], reason: str
) -> None:
    done = run(*command(disk, tmp_path / "level", texts, *more))
    assert done.status == 2
    assert len(done.err.strip().splitlines()) == 1
    assert reason in done.err
    assert not (tmp_path / "level").exists()
