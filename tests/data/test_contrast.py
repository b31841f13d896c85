"""Laws of the contrast set: pairs stay together, splits are seeded, bad lines name themselves."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saesteer.data.contrast import (
    SPLITS,
    Contrast,
    Example,
    builtin_contrasts,
)
from saesteer.errors import ContrastError


def write(folder: Path, *rows: dict[str, Any] | str) -> Path:
    path = folder / "set.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def rows(n: int, *, pairs: bool) -> list[dict[str, Any]]:
    made = [
        {"text": f"{'good' if label else 'bad'} {i}", "label": label, "pair": f"p{i}"}
        for i in range(n)
        for label in (1, 0)
    ]
    return made if pairs else [{k: v for k, v in row.items() if k != "pair"} for row in made]


@pytest.mark.parametrize("pairs", [True, False])
def test_a_pair_never_crosses_splits(tmp_path: Path, pairs: bool) -> None:
    contrast = Contrast.read(write(tmp_path, *rows(20, pairs=pairs)))
    found = contrast.pairs()
    assert len(found) == 20
    for positive, negative in found:
        assert positive.split == negative.split
        assert positive.text.split()[1] == negative.text.split()[1]


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 40), st.integers(3, 40), st.integers(0, 5))
def test_every_split_is_two_sided_and_they_partition(n: int, m: int, seed: int) -> None:
    contrast = Contrast.from_texts(
        [f"p{i}" for i in range(n)], [f"n{i}" for i in range(m)], seed=seed
    )
    parts = [contrast.split(split) for split in SPLITS]
    assert sorted(e.text for part in parts for e in part.examples) == sorted(
        e.text for e in contrast.examples
    )
    assert all(positive.split == negative.split for positive, negative in contrast.pairs())


def test_the_split_depends_on_the_seed_alone(tmp_path: Path) -> None:
    path = write(tmp_path, *rows(20, pairs=True))
    assert Contrast.read(path, seed=1) == Contrast.read(path, seed=1)
    assert Contrast.read(path, seed=1) != Contrast.read(path, seed=2)


def test_named_splits_are_kept_and_spread_over_their_pair(tmp_path: Path) -> None:
    given_rows = rows(6, pairs=True)
    given_rows[0]["split"] = "test"
    contrast = Contrast.read(write(tmp_path, *given_rows))
    assert [e.split for e in contrast.examples if e.pair == "p0"] == ["test", "test"]


def test_fields_survive_reading(tmp_path: Path) -> None:
    row = {"text": "a\u2028b", "label": 1, "split": "train", "pair": 7, "prompt": "Say: "}
    path = write(tmp_path, "\ufeff" + json.dumps(row, ensure_ascii=False), "")
    path.write_text(
        path.read_text(encoding="utf-8") + json.dumps({"text": "n", "label": 0, "note": 1}),
        encoding="utf-8",
    )
    contrast = Contrast.read(path)
    assert contrast.examples[0] == Example("a\u2028b", 1, "train", "7", "Say: ")
    assert (len(contrast), len(contrast.positives), len(contrast.negatives)) == (2, 1, 1)


def test_few_examples_are_all_for_training() -> None:
    contrast = Contrast.from_texts(["a", "b"], ["c", "d"])
    assert {e.split for e in contrast.examples} == {"train"}
    with pytest.raises(ContrastError, match=r"contrast \(test split\): it has no examples"):
        contrast.split("test")


GOOD = {"text": "fine", "label": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", r"line 2: not valid JSON \(.*\); expected one record a line\.$"),
        ("[1]", r"line 2: expected an object"),
        ('{"label": 0}', r'line 2: "text" is None; expected text that is not empty'),
        ('{"text": "  ", "label": 0}', r'line 2: "text" is .*not empty'),
        ('{"text": "a"}', r'line 2: "label" is None; expected 1 or 0'),
        ('{"text": "a", "label": 2}', r'line 2: "label" is 2; expected 1 or 0'),
        ('{"text": "a", "label": true}', r'line 2: "label" is True'),
        ('{"text": "a", "label": 0, "split": "dev"}', r"line 2: \"split\" is 'dev'; expected tr"),
        ('{"text": "a", "label": 0, "prompt": 3}', r'line 2: "prompt" is 3; expected text'),
        ('{"text": "a", "label": 0, "pair": []}', r'line 2: "pair" is \[\]'),
        (json.dumps(GOOD), r"all 2 examples have label 1; a contrast needs both"),
    ],
)
def test_a_bad_line_names_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, GOOD, line)
    with pytest.raises(ContrastError, match=message) as raised:
        Contrast.read(path)
    text = str(raised.value)
    assert str(path) in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("key", "near"), [("splt", "split"), ("spilt", "split"), ("promt", "prompt"), ("par", "pair")]
)
def test_a_slip_in_a_key_is_refused(tmp_path: Path, key: str, near: str) -> None:
    path = write(tmp_path, {"text": "a", "label": 1, key: "train"})
    with pytest.raises(ContrastError, match=f"line 1: unknown key '{key}'; did you mean '{near}'"):
        Contrast.read(path)


def test_other_columns_are_left_unread(tmp_path: Path) -> None:
    other = {"prompt_id": 3, "pairs": [1], "labels": ["x"], "source": "s", "spilt": 1}
    made = [{"text": t, "label": i, "split": "train", **other} for i, t in enumerate("ab")]
    read = Contrast.read(write(tmp_path, *made))
    assert {example.split for example in read.examples} == {"train"}


def test_a_pair_over_two_splits_is_refused(tmp_path: Path) -> None:
    given_rows = rows(3, pairs=True)
    given_rows[0]["split"], given_rows[1]["split"] = "train", "test"
    with pytest.raises(ContrastError, match="pair 'p0' lies in test and train"):
        Contrast.read(write(tmp_path, *given_rows))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ContrastError, match="neither a file nor a built-in; built-ins:"):
        Contrast.read("no-such-contrast")
    with pytest.raises(ContrastError, match="can't be read"):
        Contrast.read(tmp_path)
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xe9", "label": 1}')
    with pytest.raises(ContrastError, match="not UTF-8"):
        Contrast.read(tmp_path / "latin.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ContrastError, match="it has no examples"):
        Contrast.read(tmp_path / "empty.jsonl")


def test_pairs_need_counterparts(tmp_path: Path) -> None:
    lonely = [{"text": "a", "label": 1, "pair": "x"}, {"text": "b", "label": 0, "pair": "y"}]
    with pytest.raises(ContrastError, match="no pair id occurs with both labels"):
        Contrast.read(write(tmp_path, *lonely)).pairs()


def test_the_same_texts_on_both_sides_are_no_contrast(tmp_path: Path) -> None:
    told = "same: positives and negatives are the same texts, so nothing tells them apart"
    for negatives in (["a", "b"], ["b", "a", "a"]):
        with pytest.raises(ContrastError, match=told):
            Contrast.from_texts(["a", "b"], negatives, name="same")
    path = tmp_path / "same.jsonl"
    path.write_text("".join(json.dumps({"text": "a", "label": n}) + "\n" for n in (0, 1)))
    with pytest.raises(ContrastError, match="positives and negatives are the same texts"):
        Contrast.read(path)


def test_texts_that_one_side_or_the_prompt_tells_apart_are_a_contrast() -> None:
    assert len(Contrast.from_texts(["a", "b"], ["a", "c"])) == 4
    prompts = (Example("yes", label, prompt=f"Is it {label}?") for label in (0, 1))
    assert len(Contrast(tuple(prompts))) == 2
    halves = [
        Example(t, n, s) for s, t in (("train", "ab"), ("test", "aa")) for n, t in enumerate(t)
    ]
    with pytest.raises(ContrastError, match=r"test split\): positives and negatives are the same"):
        Contrast(tuple(halves)).split("test")
    assert len(Contrast(tuple(halves)).split("train")) == 2


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ContrastError, match="split 'dev' does not exist"):
        Contrast.from_texts(["a"], ["b"]).split("dev")


def test_a_folder_of_a_built_ins_name_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a command's own --out."""
    monkeypatch.chdir(tmp_path)
    Path("ocean").mkdir()
    assert Contrast.read("ocean").name == "ocean"


@pytest.mark.parametrize("name", builtin_contrasts())
def test_built_ins_are_paired_and_split(name: str) -> None:
    contrast = Contrast.read(name)
    assert contrast.name == name
    for split in SPLITS:
        assert contrast.split(split).pairs()


@pytest.mark.parametrize(("label", "split"), [(2, "train"), ("1", "train"), (1, "dev")])
def test_labels_and_splits_are_those_that_exist(label: Any, split: Any) -> None:
    odd = SimpleNamespace(text="a", label=label, split=split, pair=None, prompt=None)
    check = inspect.unwrap(Contrast.__post_init__)
    with pytest.raises(ContrastError, match=f"label {label!r} in split '{split}'; labels are 1"):
        check(SimpleNamespace(name="odd", examples=(odd, Example("b", 0))))


def test_a_text_in_the_place_of_a_list() -> None:
    with pytest.raises(ContrastError, match="give a list of positive texts and one of negative"):
        Contrast.from_texts("nice", ["bad"])
