"""Rows to score on: several paths share the tokens asked for, and one file is read as ever."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from saesteer.config import ScoreConfig, TextConfig, TrainSAEConfig
from saesteer.data.text import iterate_texts
from saesteer.evals import watch
from saesteer.evals.rows import rows_by_path, token_rows

RAIN, SEA, SUN = "the rain in the town ", "a sea of salt ", "one sun is up "


@pytest.fixture
def model(tiny_model: Any) -> Any:
    """Reads letters and a few words."""
    return tiny_model("llama")


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Two long files, and a folder of a long and a short one."""
    folder = tmp_path / "folder"
    folder.mkdir()
    texts = {"a.txt": RAIN * 50, "b.txt": SEA * 50, "folder/c.txt": SUN * 50, "folder/d.txt": "up"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return [str(tmp_path / name) for name in ("a.txt", "b.txt", "folder")]


def n_of(model: Any, rows: list[list[int]]) -> int:
    """Tokens of rows without their BOS."""
    bos = len(model.tokenizer("")["input_ids"])
    return sum(len(row) - bos for row in rows)


def test_paths_share_the_tokens(model: Any, paths: list[str]) -> None:
    found = rows_by_path(model, iterate_texts(paths), 270, 10)
    counts = {path: n_of(model, rows) for path, rows in found.items()}
    assert list(counts) == paths
    assert sum(counts.values()) == 270
    assert max(counts.values()) - min(counts.values()) <= 10
    flat = [row for rows in found.values() for row in rows]
    assert token_rows(model, iterate_texts(paths), 270, 10) == flat


def test_a_folder_s_files_share_its_tokens(model: Any, tmp_path: Path, paths: list[str]) -> None:
    long = [token_rows(model, iterate_texts(p), 9999, 10) for p in paths[:2]]
    both = token_rows(model, iterate_texts(str(tmp_path)), 120, 10)
    for rows in long:
        assert rows[0] in both


def test_what_a_short_path_leaves_the_others_take(model: Any, tmp_path: Path) -> None:
    (tmp_path / "short.jsonl").write_text('{"text": "the sea"}\n')
    (tmp_path / "none.txt").write_text("")
    (tmp_path / "long.txt").write_text(RAIN * 50)
    names = [str(tmp_path / name) for name in ("short.jsonl", "none.txt", "long.txt")]
    found = rows_by_path(model, iterate_texts(names), 200, 16)
    short, none, long = (n_of(model, found[name]) for name in names)
    assert 0 < short < 16
    assert none == 0
    assert short + long == 200


def test_a_path_given_twice_counts_as_one(model: Any, paths: list[str]) -> None:
    found = rows_by_path(model, iterate_texts([paths[0], paths[0]]), 80, 10)
    assert {path: n_of(model, rows) for path, rows in found.items()} == {paths[0]: 80}


def test_one_file_is_read_as_its_texts_are(model: Any, tmp_path: Path) -> None:
    texts = [RAIN * 3, "", SEA, "a", SUN * 9]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for limit in (2, 30, 61, 9999):
        got = token_rows(model, iterate_texts(str(path)), limit, 12)
        assert got == token_rows(model, texts, limit, 12) != []


def test_where_all_is_read_rows_lie_file_after_file(model: Any, paths: list[str]) -> None:
    rows = token_rows(model, iterate_texts(paths), 99_999, 10)
    assert rows == token_rows(model, list(iterate_texts(paths)), 99_999, 10)


def test_held_out_scores_are_over_every_path(
    model: Any, tiny_sae: Any, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainSAEConfig(
        model="tiny", site="resid_post.1", text=TextConfig(paths[0], context=10), d_sae=64,
        n_tokens=64, batch_size=64, score=ScoreConfig(path=paths, tokens=90, every_steps=1),
    )  # fmt: skip
    scored: list[list[list[int]]] = []
    begin = watch.held_out_scorer(config)
    assert begin is not None

    def evaluate(_model: Any, _sae: Any, rows: list[list[int]]) -> SimpleNamespace:
        scored.append(rows)
        return SimpleNamespace(**dict.fromkeys(watch.WATCHED, 0.0))

    monkeypatch.setattr(watch, "evaluate_rows", evaluate)
    begin(model)(tiny_sae(model, "resid_post.1"))
    firsts = [token_rows(model, iterate_texts(path), 9999, 10)[0] for path in paths]
    assert all(first in scored[0] for first in firsts)
