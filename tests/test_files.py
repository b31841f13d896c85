"""What is written may be read by whom the umask lets; what is read is text."""

from __future__ import annotations

import inspect
import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import saesteer
from saesteer.errors import DataError
from saesteer.files import json_text, parse_json, path_of, save_tensors


@pytest.fixture
def shared_with_the_group():
    """A umask under which others may read nothing and the group all."""
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("shared_with_the_group")
def test_tensors_are_written_with_the_mode_of_other_files(tmp_path):
    plain, tensors = tmp_path / "plain", tmp_path / "some.safetensors"
    plain.touch()
    save_tensors({"a": torch.ones(2)}, tensors)
    assert oct(tensors.stat().st_mode) == oct(plain.stat().st_mode) == "0o100640"
    assert load_file(tensors)["a"].tolist() == [1, 1]


def test_a_place_that_cant_hold_tensors_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="missing"):
        save_tensors({"a": torch.ones(2)}, tmp_path / "missing" / "a.safetensors")


def test_all_tensors_are_written_so():
    package = Path(saesteer.__file__).parent
    users = [p.name for p in package.rglob("*.py") if "import save_file" in p.read_text()]
    assert users == ["files.py"]


@pytest.mark.parametrize("ref", [None, 5, ["a"], b"a"])
def test_what_is_no_path(ref):
    read = inspect.unwrap(path_of)  # without the tests' own check of types
    with pytest.raises(DataError, match="is no path; give a text or a Path"):
        read(ref, DataError)


@pytest.mark.parametrize(
    ("line", "record"),
    [
        (r'{"text": "a \ud800 b \uDFFF"}', {"text": "a \ufffd b \ufffd"}),
        (r'["\ud83d\ude00", "\\ud800", 1.5]', ["\N{GRINNING FACE}", r"\ud800", 1.5]),
    ],
)
def test_half_a_character_is_replaced(line, record):
    assert parse_json(line, "here", DataError) == record


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ({"a": math.nan, "b": [math.inf, 1.5]}, {"a": None, "b": [None, 1.5]}),
        ((1, True, None, "größer"), [1, True, None, "größer"]),
        ({1: Path("a/b")}, {"1": "a/b"}),
        (torch.tensor(2.0), 2.0),
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_is_strict(value, read, ascii_only):
    def refuse(name):
        raise AssertionError(name)

    text = json_text(value, ascii_only=ascii_only)
    assert json.loads(text, parse_constant=refuse) == read
