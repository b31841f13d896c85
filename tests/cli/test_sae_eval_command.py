"""`saesteer sae eval` with everything it can add, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

SPLITS = ("train", "train", "validation", "test")
WORDS = ("rain", "town", "sea", "sun")


@pytest.fixture
def concept(tmp_path: Path) -> Path:
    """Texts with and without a word, in all three splits."""
    rows = [
        {"text": f"{'zz ' * label}{WORDS[i % 4]} {i}", "label": label, "split": SPLITS[i % 4],
         "pair": i}
        for i in range(16)
        for label in (0, 1)
    ]  # fmt: skip
    path = tmp_path / "zz.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def command(disk: Path, *more: Any) -> tuple[Any, ...]:
    return (
        "sae", "eval", disk / "sae", "--model", disk / "model", "--text", disk / "text.txt",
        "--max-tokens", 300, "--context", 32, "--quiet", *more,
    )  # fmt: skip


def test_concepts_and_sae_lens_stand_beside_the_scores(
    run: Any, disk: Path, concept: Path, tmp_path: Path
) -> None:
    report = tmp_path / "scores.json"
    done = run(*command(disk, "--concepts", concept, concept, "--sae-lens", "--json", report))
    assert done.status == 0, done.err
    assert done.err == ""
    found = json.loads(report.read_text())
    assert {"fvu", "l0", "delta_ce", "density", "concepts", "sae_lens"} <= set(found)
    assert "first_letters" not in found
    assert sum(found["density"]["counts"]) + found["density"]["never_fired"] == 96
    assert [row["k"] for row in found["concepts"]["probing"][0]["sparse"]] == [1, 2, 5, 20]
    assert found["sae_lens"]["ours"] == pytest.approx(found["sae_lens"]["sae_lens"], rel=1e-3)
    for word in ("log10 frequency", "random SAE", "absorption fraction", "TPP", "saesteer"):
        assert word in done.out


def test_without_them_the_scores_are_all(run: Any, disk: Path, tmp_path: Path) -> None:
    report = tmp_path / "scores.json"
    done = run(*command(disk, "--json", report))
    assert done.status == 0, done.err
    assert not {"concepts", "sae_lens", "first_letters"} & set(json.loads(report.read_text()))
    assert "TPP" not in done.out


def test_paths_share_the_tokens_and_each_says_how_many(
    run: Any, disk: Path, tmp_path: Path
) -> None:
    other, report = tmp_path / "other.txt", tmp_path / "scores.json"
    other.write_text("a sea of salt " * 400)
    done = run(*command(disk, "--text", other, "--sae-lens", "--json", report))
    assert done.status == 0, done.err
    found = json.loads(report.read_text())
    assert list(found["texts"]) == [str(disk / "text.txt"), str(other)]
    first, second = found["texts"].values()
    assert first + second == 300
    assert abs(first - second) <= 32
    assert "other.txt" in done.out
    alone = run(*command(disk, "--json", report))
    assert json.loads(report.read_text())["texts"] == {str(disk / "text.txt"): 300}
    assert "text.txt" not in alone.out


def test_help_says_whether_tokens_are_in_all_or_of_each(run: Any) -> None:
    for verb, told in (("eval", "default 20000 in all,"), ("level", "default 50000 of each path")):
        assert told in " ".join(run("sae", verb, "--help").out.split())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"text": "a", "label": 1}', "all 1 examples have label 1"),
        ('{"text": "a", "label": 1}\n{"text": "b", "label": 0}', "(validation split)"),
        ("", "no examples"),
        ("not json", "line 1: not valid JSON"),
    ],
)
def test_a_concept_that_cannot_be_probed(
    run: Any, disk: Path, tmp_path: Path, lines: str, message: str
) -> None:
    path, report = tmp_path / "c.jsonl", tmp_path / "scores.json"
    path.write_text(lines)
    fails(run(*command(disk, "--concepts", path, "--json", report)), "c.jsonl", message)
    assert not report.exists()


def test_a_concept_text_without_tokens(run: Any, disk: Path, concept: Path) -> None:
    with concept.open("a") as file:
        file.write('\n{"text": "<eos>", "label": 1, "split": "train"}')
    fails(run(*command(disk, "--concepts", concept)), "'<eos>'", "has no tokens")


def test_concepts_that_do_not_exist(run: Any, disk: Path) -> None:
    fails(run(*command(disk, "--concepts", "ocaen")), "'ocaen'", "ocean, politeness")


def test_letters_that_the_vocabulary_has_not(run: Any, disk: Path, tmp_path: Path) -> None:
    report = tmp_path / "scores.json"
    fails(run(*command(disk, "--first-letters", "--json", report)), "too few words of one token")
    assert not report.exists()


def test_rows_that_no_text_fills(run: Any, disk: Path) -> None:
    args = command(disk, "--sae-lens", "--max-tokens", 20)
    fails(run(*args), "no text fills a row of 32 tokens")


def test_rows_longer_than_the_model_reads(run: Any, disk: Path, tmp_path: Path) -> None:
    args = command(disk, "--max-tokens", 600, "--context", 300)
    fails(run(*args), "rows of 300 tokens", "256 positions; lower text.context or --context")
    (tmp_path / "short.txt").write_text("the rain in the town")
    short = [tmp_path / "short.txt" if arg == disk / "text.txt" else arg for arg in args]
    assert run(*short).status == 0


def test_a_model_that_gives_no_numbers(run: Any, disk: Path, tmp_path: Path) -> None:
    shutil.copytree(disk / "model", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    weights = {name: tensor.fill_(torch.nan) for name, tensor in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})
    done = run(*command(disk, "--model", tmp_path / "model"))
    fails(done, "gives NaN or infinity at resid_post.2; check its weights")


def fails(outcome: Any, *words: str) -> None:
    """Status 2 and one line on stderr that holds every word."""
    assert outcome.status == 2, outcome
    assert len(outcome.err.strip().splitlines()) == 1, outcome.err
    for word in words:
        assert word in outcome.err, outcome.err
    assert outcome.out == ""
