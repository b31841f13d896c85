"""Labelled texts of every grain are read as texts with splits and, where given, spans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saesteer.data.concept_data import read_concept_data
from saesteer.errors import ContrastError


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_labels_of_whole_texts_are_read_as_a_contrast_is(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": n % 2, "split": "train"} for n in range(4)]
    (found,) = read_concept_data(lines(tmp_path / "pain.jsonl", *rows))
    assert found.name == "pain"
    assert [(e.text, e.label) for e in found.examples] == [(r["text"], r["label"]) for r in rows]
    assert found.spans is None
    assert not found.needs_negatives


def test_spans_label_the_text_that_holds_one(tmp_path: Path) -> None:
    rows = ({"text": "a gun here", "spans": [[2, 5]]}, {"text": "a pen", "spans": []})
    (found,) = read_concept_data(lines(tmp_path / "weapon.jsonl", *rows))
    assert found.spans == (((2, 5),), ())
    assert [e.label for e in found.examples] == [1, 0]


def test_a_text_may_hold_line_ends_that_are_not_the_files(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    row = {"text": "a\u2028gun\x85here", "spans": [[2, 5]]}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8-sig")
    (found,) = read_concept_data(path)
    assert [e.text for e in found.examples] == [row["text"]]
    path = tmp_path / "odd.txt"
    path.write_text("one\u2028two\n\nthree\n", encoding="utf-8-sig")
    (found,) = read_concept_data(path)
    assert [e.text for e in found.examples] == ["one\u2028two", "three"]


def test_words_and_sentences_become_spans_of_their_text(tmp_path: Path) -> None:
    row = {"pieces": ["It", "hurts", "so."], "labels": [0, 1, 1], "split": "test"}
    (found,) = read_concept_data(lines(tmp_path / "pain.jsonl", row))
    (example,), spans = found.examples, found.spans
    assert spans is not None
    assert [example.text[a:b] for a, b in spans[0]] == ["hurts", "so."]
    assert example.split == "test"


def test_a_folder_holds_a_concept_for_each_entry(tmp_path: Path) -> None:
    (tmp_path / "birds.txt").write_text("a crow\n\na robin\n", encoding="utf-8")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "1.txt").write_text("a saw\nand its teeth", encoding="utf-8")
    birds, tools = read_concept_data(tmp_path)
    assert (birds.name, tools.name) == ("birds", "tools")
    assert [e.text for e in birds.examples] == ["a crow", "a robin"]
    assert [e.text for e in tools.examples] == ["a saw\nand its teeth"]
    assert birds.needs_negatives


def test_a_yaml_names_its_sources_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "birds.txt").write_text("a crow\n", encoding="utf-8")
    listed = tmp_path / "concepts.yaml"
    listed.write_text("bird: birds.txt\nmood: politeness\n", encoding="utf-8")
    bird, mood = read_concept_data(listed)
    assert (bird.name, bird.examples[0].text) == ("bird", "a crow")
    assert {e.label for e in mood.examples} == {0, 1}


def test_splits_are_drawn_by_seed_and_kept_where_they_are_given(tmp_path: Path) -> None:
    path = tmp_path / "birds.txt"
    path.write_text("\n".join(f"bird {n}" for n in range(20)), encoding="utf-8")
    one, same, other = (read_concept_data(path, seed)[0].examples for seed in (0, 0, 1))
    assert one == same
    assert one != other
    drawn = [e.split for e in one]
    assert {s: drawn.count(s) for s in set(drawn)} == {"train": 12, "validation": 4, "test": 4}


def test_a_pair_stays_in_one_split(tmp_path: Path) -> None:
    rows = [{"text": f"t {n}", "spans": [], "pair": n % 10} for n in range(20)]
    (found,) = read_concept_data(lines(tmp_path / "x.jsonl", *rows))
    splits = [e.split for e in found.examples]
    assert splits[:10] == splits[10:]
    assert set(splits) == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"text": " "}, "\"text\" is ' '; expected text"),
        ({"text": "abc", "spans": [[1, 9]]}, "pairs within its 3 characters"),
        ({"text": "abc", "spans": 3}, '"spans" is 3'),
        ({"pieces": ["a", "b"], "labels": [1]}, "as many labels, 1 or 0, as pieces"),
        ({"text": "abc", "spans": [], "split": "dev"}, "\"split\" is 'dev'"),
    ],
)
def test_bad_rows_are_refused_with_their_line(tmp_path: Path, row: Any, fault: str) -> None:
    with pytest.raises(ContrastError, match="line 1: .*" + fault.replace("(", r"\(")):
        read_concept_data(lines(tmp_path / "bad.jsonl", row))


def test_kinds_of_labels_are_not_mixed(tmp_path: Path) -> None:
    path = lines(tmp_path / "mixed.jsonl", {"text": "a", "label": 1}, {"text": "b", "spans": []})
    with pytest.raises(ContrastError, match="mixes rows with label and spans"):
        read_concept_data(path)


@pytest.mark.parametrize(
    ("text", "fault"), [("- a\n", "expected a mapping"), ("a: {b: 1}\n", "expected a mapping")]
)
def test_a_yaml_of_another_shape_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "concepts.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ContrastError, match=fault):
        read_concept_data(path)


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ContrastError, match="neither a file, a folder nor a built-in"):
        read_concept_data(tmp_path / "none")
    with pytest.raises(ContrastError, match=r"holds no \.jsonl or \.txt file"):
        read_concept_data(tmp_path)


def test_an_empty_folder_of_a_built_ins_name_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ocean").mkdir()
    (found,) = read_concept_data("ocean")
    assert found.name == "ocean"
    Path("ocean", "pain.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n')
    (found,) = read_concept_data("ocean")
    assert found.name == "pain"
