"""Paths side by side: nothing is lost or moved, and none that still has text is behind."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from inspect import unwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saesteer.data import turns
from saesteer.data.text import iterate_texts
from saesteer.data.turns import pieces_in_turn
from saesteer.errors import DataError

FOLDERS = st.lists(
    st.lists(st.lists(st.text("ab", max_size=30), max_size=4), min_size=1, max_size=3),
    min_size=1,
    max_size=4,
)
"""Of each path its files, of each file its texts."""


def cut(text: str) -> Iterator[list[int]]:
    """Letters as ids, seven at a time."""
    return (list(map(ord, text[start : start + 7])) for start in range(0, len(text), 7))


def written(root: Path, folders: list[list[list[str]]]) -> list[str]:
    paths = [root / f"{i}" for i in range(len(folders))]
    for path, files in zip(paths, folders, strict=True):
        path.mkdir(exist_ok=True)
        for old in path.iterdir():
            old.unlink()
        for i, texts in enumerate(files):
            numbered = [f"{text}{i % 10}" for i, text in enumerate(texts)]  # none repeats
            (path / f"{i}.jsonl").write_text("".join(json.dumps(t) + "\n" for t in numbered))
    return [str(path) for path in paths]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FOLDERS)
def test_all_of_every_path_and_as_much_of_each_while_it_lasts(
    tmp_path: Path, folders: list[list[list[str]]]
) -> None:
    paths = written(tmp_path, folders)
    found = list(pieces_in_turn(iterate_texts(paths), cut))
    by_part: dict[Any, list[list[int]]] = defaultdict(list)
    for piece in found:
        by_part[piece.part].append(piece.ids)
    alone = {part: [ids for text in iterate_texts(part.name) for ids in cut(text)]
             for part in by_part}  # fmt: skip
    assert by_part == alone
    whole = {path: sum(map(len, iterate_texts(path))) for path in paths}
    assert sum(whole.values()) == sum(len(piece.ids) for piece in found)
    given = Counter(dict.fromkeys(paths, 0))
    for piece in found:
        left = [n for path, n in given.items() if n < whole[path]]
        assert given[piece.part.path] == min(left)
        given[piece.part.path] += len(piece.ids)


def test_texts_are_numbered_as_they_are_begun(tmp_path: Path) -> None:
    paths = written(tmp_path, [[["a" * 9]], [["b" * 9, "c"]]])
    seen = [(piece.text, chr(piece.ids[0])) for piece in pieces_in_turn(iterate_texts(paths), cut)]
    assert seen == [(0, "a"), (1, "b"), (0, "a"), (1, "b"), (2, "c")]


def test_no_more_files_of_a_path_are_open_than_need_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "OPEN_FILES", 2)
    paths = written(tmp_path, [[["a" * 13], ["b" * 30], ["c" * 13]]])
    seen = [chr(piece.ids[0]) for piece in pieces_in_turn(iterate_texts(paths), cut)]
    assert seen == ["a", "b", "a", "b", "c", "c", "b", "b", "b"]


def test_other_texts_are_read_in_their_order() -> None:
    for texts in (["ab", "", "c" * 9], iter(["ab", "", "c" * 9])):
        seen = [(piece.text, len(piece.ids)) for piece in pieces_in_turn(texts, cut)]
        assert seen == [(0, 2), (2, 7), (2, 2)]
    assert len(list(pieces_in_turn("one text", cut))) == 2


@pytest.mark.parametrize("given", [[{"role": "user", "content": "Hi"}], [["a", "b"]], [b"a"]])
def test_what_is_no_text_is_refused(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_pieces", unwrap(turns._pieces))
    with pytest.raises(DataError, match="is no text: give strings"):
        list(unwrap(pieces_in_turn)(given, cut))
