"""Commands that read text: `--field`, `--max-tokens`, several paths, and options given twice."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from cli_parsers import parsers_of

from saesteer.cli.parser import build_parser

LISTS = [
    pytest.param(parser, action, id=f"{parser.prog} {action.option_strings[0]}")
    for parser in parsers_of(build_parser())
    for action in parser._actions
    if action.option_strings and action.nargs in ("+", "*")
]


@pytest.mark.parametrize(("parser", "action"), LISTS)
def test_every_list_given_twice_adds_up(
    parser: argparse.ArgumentParser, action: argparse.Action
) -> None:
    one, two = list(action.choices)[:2] if action.choices else ("1", "2")
    given = [action.type(word) if callable(action.type) else word for word in (one, two, one)]
    space = argparse.Namespace(**{action.dest: action.default})
    for words in ((one, two), (one,)):
        values = parser._get_values(action, list(words))
        action(parser, space, values, action.option_strings[0])
    assert getattr(space, action.dest) == given
    assert action.default is None or given != action.default


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Records whose text is under a key of their own."""
    path = tmp_path / "odd.jsonl"
    records = [{"body": f"the rain in the town and the sea {i} " * 20} for i in range(9)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def reading(disk: Path, out: Path) -> dict[str, tuple[Any, ...]]:
    """Every command that reads text, all but its text."""
    ours, short = ("--model", disk / "model", "--quiet"), ("n_tokens=256", "score.every_steps=0")
    return {
        "eval": ("sae", "eval", disk / "sae", *ours, "--context", 32),
        "level": ("sae", "level", disk / "sae", *ours, "--context", 32, "--out", out),
        "show": ("features", "show", disk / "sae", 5, *ours),
        "sweep": ("train", "sweep", disk / "train.yaml", *short, "--grid", "k=2,4", "--out", out,
                  "--quiet"),
    }  # fmt: skip


@pytest.mark.parametrize("command", ["eval", "level", "show", "sweep"])
def test_the_key_of_the_text_can_be_named(
    run: Any, disk: Path, odd: Path, tmp_path: Path, command: str
) -> None:
    args = (*reading(disk, tmp_path / "out")[command], "--text", odd, "--max-tokens", 200)
    unnamed = run(*args)
    assert unnamed.status == 2
    assert "odd.jsonl, line 1: no text under 'text'" in unnamed.err
    assert "name its key by --field" in unnamed.err
    assert len(unnamed.err.strip().splitlines()) == 1
    named = run(*args, "--field", "body")
    assert named.status == 0, named.err


def test_a_feature_is_looked_for_in_so_many_tokens_of_all_paths(
    run: Any, disk: Path, odd: Path, tmp_path: Path
) -> None:
    report, args = tmp_path / "card.json", reading(disk, tmp_path)["show"]
    args = (*args, "--text", odd, "--field", "body", "--json", report)
    assert run(*args, "--max-tokens", 100).status == 0
    some = json.loads(report.read_text())["n_tokens"]
    assert run(*args).status == 0
    assert 100 <= some < json.loads(report.read_text())["n_tokens"]


def test_a_feature_s_text_is_read_with_progress(
    run: Any, disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from saesteer.cli import common

    monkeypatch.setattr(common, "_EVERY_SECONDS", 0.0)
    *args, _quiet = reading(disk, tmp_path)["show"]
    done = run(*args, "--text", disk / "text.txt", "--max-tokens", 3000)
    assert done.status == 0, done.err
    assert done.err.splitlines()[-1].startswith("features show: 3000/3000")


def test_help_says_which_positions_are_attributed(run: Any) -> None:
    assert "--last N" in run("features", "attribute", "--help").out
    assert "default: all" in run("features", "attribute", "--help").out


def test_whatever_reads_paths_of_text_takes_the_key() -> None:
    for parser in parsers_of(build_parser()):
        options = {option: action for action in parser._actions for option in action.option_strings}
        if "--text" in options and options["--text"].metavar == "PATH":
            assert "--field" in options, parser.prog
