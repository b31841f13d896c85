"""`saesteer concepts fit` from files to folders that a rule file can name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saesteer.rules import RuleBook
from saesteer.saes import save_sae


@pytest.fixture
def parts(disk: Path, tiny_model: Any, tiny_sae: Any, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A folder with two concepts as word lists, a model and an SAE."""
    words = ["day", "meal", "road", "house", "song", "walk", "letter", "boat", "room", "chair"]
    data = tmp_path / "data"
    data.mkdir()
    for name, mark in (("zed", "zzz"), ("cue", "qqq")):
        lines = [f"{mark} {word} {mark}" for word in words * 2]
        (data / f"{name}.txt").write_text("\n".join(dict.fromkeys(lines)), encoding="utf-8")
    save_sae(tiny_sae(tiny_model("llama"), "resid_post.1"), tmp_path / "sae")
    return data, disk / "model", tmp_path / "sae"


def test_concepts_are_fitted_scored_and_kept(run: Any, parts: Any, tmp_path: Path) -> None:
    data, model, sae = parts
    out, report = tmp_path / "out", tmp_path / "report.json"
    done = run(
        *("concepts", "fit", data, "--sae", sae, "--model", model, "--out", out),
        *("--readout", "feature", "probe", "--json", report, "--quiet"),
    )
    assert done.status == 0, done.err
    found = json.loads(report.read_text())
    assert found == json.loads((out / "results.json").read_text())
    assert sorted(found) == ["cue", "zed"]
    for rows in found.values():
        assert [row["readout"] for row in rows] == ["feature", "probe"]
        assert sum(row["chosen"] for row in rows) == 1
        for row in rows:
            low, high = row["scores"]["test"]["auroc_ci"]
            assert low <= row["scores"]["test"]["auroc"] <= high
    assert "AUROC" in done.out
    raw = {"concepts": {"zed": {"concept": "zed"}}, "rules": "found :- zed."}
    assert RuleBook.from_dict(raw, folder=out).concepts[0].name == "zed"


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        (("--threshold", "best"), "--threshold best is none of balanced_accuracy"),
        (("--threshold", "false_positives", "--budget", "2"), "false-positive budget of 2"),
    ],
)
def test_bad_settings_are_one_line(
    run: Any, parts: Any, tmp_path: Path, extra: tuple[str, ...], fault: str
) -> None:
    data, model, sae = parts
    args = ("concepts", "fit", data, "--sae", sae, "--model", model, "--out", tmp_path / "out")
    done = run(*args, *extra, "--readout", "feature", "--quiet")
    assert done.status == 2
    assert fault in done.err
    assert not (tmp_path / "out").exists()


def test_one_concept_alone_has_no_negatives(run: Any, parts: Any, tmp_path: Path) -> None:
    data, model, sae = parts
    args = ("--sae", sae, "--model", model, "--out", tmp_path / "out", "--quiet")
    done = run("concepts", "fit", data / "zed.txt", *args)
    assert done.status == 2
    assert "concept zed has no text without it" in done.err
