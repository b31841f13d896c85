"""Prompts with several labels become a contrast each, over the same texts and splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saesteer.data.contrast import SPLITS
from saesteer.data.label_sets import read_label_sets
from saesteer.errors import ContrastError


def _write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_label_has_every_text_and_all_share_their_splits(tmp_path: Path) -> None:
    sets = [["wet"], ["cold", "wet"], [], ["cold"]]
    rows = [{"text": f"text {i}", "labels": sets[i % 4]} for i in range(40)]
    found = read_label_sets(_write(tmp_path / "x.jsonl", rows))
    assert list(found) == ["cold", "wet"]
    for name, contrast in found.items():
        assert [e.text for e in contrast.examples] == [row["text"] for row in rows]
        assert [e.label for e in contrast.examples] == [int(name in row["labels"]) for row in rows]
        for split in SPLITS:
            assert {e.label for e in contrast.examples if e.split == split} == {0, 1}
    splits = [[e.split for e in contrast.examples] for contrast in found.values()]
    assert splits[0] == splits[1]
    again = read_label_sets(tmp_path / "x.jsonl", seed=1)["wet"]
    assert [e.split for e in again.examples] != splits[0]


def test_given_splits_are_kept(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "labels": ["a"] * (i % 2), "split": SPLITS[i % 3]} for i in range(6)]
    found = read_label_sets(_write(tmp_path / "x.jsonl", rows))["a"]
    assert [e.split for e in found.examples] == [SPLITS[i % 3] for i in range(6)]


def test_a_text_may_hold_line_ends_that_are_not_the_files(tmp_path: Path) -> None:
    rows = [{"text": f"one\u2028two\x85{i}", "labels": ["a"] * (i % 2)} for i in range(12)]
    path = tmp_path / "x.jsonl"
    path.write_text("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows), newline="")
    assert [e.text for e in read_label_sets(path)["a"].examples] == [row["text"] for row in rows]


def test_one_label_is_called_as_its_file_or_built_in(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": i % 2} for i in range(8)]
    assert list(read_label_sets(_write(tmp_path / "polite.jsonl", rows))) == ["polite"]
    assert len(read_label_sets("ocean")["ocean"].examples) > 100


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"text": "", "labels": ["a"]}, "line 2: \"text\" is ''; expected text"),
        ({"text": "b", "labels": "a"}, "line 2: \"labels\" is 'a'; expected a list of names"),
        ({"text": "b"}, 'line 2: "labels" is None'),
        ({"text": "b", "labels": ["a"], "split": "dev"}, "line 2: \"split\" is 'dev'"),
        ([1], 'line 2: "text" is None'),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, row: Any, fault: str) -> None:
    path = _write(tmp_path / "x.jsonl", [{"text": "a", "labels": ["a"]}, row])
    with pytest.raises(ContrastError) as caught:
        read_label_sets(path)
    assert fault in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("{")
    with pytest.raises(ContrastError, match="line 1: not valid JSON"):
        read_label_sets(tmp_path / "x.jsonl")
    (tmp_path / "y.jsonl").write_bytes(b"\xe9")
    with pytest.raises(ContrastError, match=r"y\.jsonl can't be read"):
        read_label_sets(tmp_path / "y.jsonl")
    with pytest.raises(ContrastError, match="neither a file nor a built-in"):
        read_label_sets(tmp_path / "gone.jsonl")
