"""Documents come out of every kind of file as they went in, and damage is named with its place."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from saesteer.data import text as text_module
from saesteer.data.text import (
    find_files,
    is_local,
    iterate_texts,
    load_hub_documents,
    parts_of,
    read_documents,
    split_pieces,
)
from saesteer.errors import DataError, NetworkError

DOCUMENTS = ["the rain in the town", "the sea – größer", "third\nwith a line break"]
OPENERS = {"": open, ".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


def write_json_lines(path: Path, records, opener=open) -> Path:
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return path


@pytest.mark.parametrize("packed", OPENERS)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".ndjson"])
@pytest.mark.parametrize("field", ["text", "passage", "document", "content"])
def test_json_lines_give_a_document_each(tmp_path, packed, suffix, field):
    records = [{"id": i, field: document} for i, document in enumerate(DOCUMENTS)]
    path = write_json_lines(tmp_path / f"a{suffix}{packed}", records, OPENERS[packed])
    assert list(read_documents(path)) == DOCUMENTS


@pytest.mark.parametrize("packed", OPENERS)
@pytest.mark.parametrize("suffix", [".txt", ".md", ".text"])
def test_a_text_file_is_one_document(tmp_path, packed, suffix):
    path = tmp_path / f"a{suffix}{packed}"
    with OPENERS[packed](path, "wt", encoding="utf-8") as file:
        file.write("\n".join(DOCUMENTS))
    assert list(read_documents(path)) == ["\n".join(DOCUMENTS)]


def test_a_zip_gives_its_text_members_in_name_order(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("2.txt", "1.TXT", "in/3.md", "picture.png"):
            archive.writestr(name, f"text of {name}")
    got = list(read_documents(tmp_path / "a.zip"))
    assert got == ["text of 1.TXT", "text of 2.txt", "text of in/3.md"]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_text("sea", encoding="utf-8-sig")
    (tmp_path / "b.jsonl").write_text('{"text": "sun"}\n', encoding="utf-8-sig")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("c.txt", "rain".encode("utf-8-sig"))
    assert list(iterate_texts(str(tmp_path))) == ["sea", "sun", "rain"]


def test_records_that_are_texts_and_blank_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('"one"\n\n{"text": "two"}\n   \n')
    assert list(read_documents(path)) == ["one", "two"]


def test_a_passage_that_repeats_counts_once(tmp_path):
    records = [{"passage": p, "question": i} for i, p in enumerate("aabba")]
    path = write_json_lines(tmp_path / "a.jsonl", records)
    assert list(read_documents(path)) == ["a", "b", "a"]


def test_the_field_can_be_named(tmp_path):
    path = write_json_lines(tmp_path / "a.jsonl", [{"text": "no", "body": "yes"}])
    assert list(read_documents(path, "body")) == ["yes"]
    with pytest.raises(DataError, match=r"no text under 'title'; name its key by --field"):
        list(read_documents(path, "title"))


@pytest.mark.parametrize("record", [{"label": 1}, {"text": 5}, 7, ["text"], None])
def test_records_without_text_are_named_by_line(tmp_path, record):
    path = write_json_lines(tmp_path / "a.jsonl", [{"text": "fine"}, record])
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: no text under 'text' or 'passage'"):
        list(read_documents(path))


def test_broken_json_is_named_by_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "cut o\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: not valid JSON .*one record a line"):
        list(read_documents(path))


@pytest.mark.parametrize("packed", [".gz", ".xz", ".bz2"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "junk"])
def test_damaged_archives(tmp_path, packed, damage):
    rng = random.Random(0)
    records = [{"text": f"document {rng.random()}"} for _ in range(3000)]
    path = write_json_lines(tmp_path / f"a.jsonl{packed}", records, OPENERS[packed])
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        middle = len(content) // 2
        content[middle : middle + 64] = bytes(64)
    else:
        content = bytearray(b"this is no archive at all")
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.jsonl\{packed}.* (damaged or unreadable|line \d+)"):
        list(read_documents(path))


def test_a_damaged_zip(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match=r"a\.zip: damaged or unreadable"):
        list(read_documents(path))


def test_a_zip_whose_member_is_damaged(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        rng = random.Random(0)
        archive.writestr("1.txt", "".join(f"{rng.random()} " for _ in range(2000)))
    content = bytearray(path.read_bytes())
    content[100:164] = bytes(range(64))
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip: damaged or unreadable"):
        list(read_documents(path))


def test_a_zip_with_a_password(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1.txt", "secret")
    content = bytearray(path.read_bytes())
    for header, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(header) + flag] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip: damaged or unreadable .*password"):
        list(read_documents(path))


def test_text_in_another_encoding(tmp_path):
    (tmp_path / "a.txt").write_bytes("größer".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.txt: damaged or unreadable .*utf-8"):
        list(read_documents(tmp_path / "a.txt"))


def test_a_folder_is_read_in_name_order_and_in_depth(tmp_path):
    for name in ("b.txt", "a.jsonl", "in/c.md", "skip.png", "in/d.txt.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [p.relative_to(tmp_path).as_posix() for p in find_files(tmp_path)]
    assert found == ["a.jsonl", "b.txt", "in/c.md", "in/d.txt.gz"]


def test_places_without_text(tmp_path):
    with pytest.raises(DataError, match=r"the folder holds no text files; expected \.txt"):
        find_files(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        find_files(tmp_path / "missing")
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=r"a\.png: unknown kind of file; expected \.txt"):
        find_files(tmp_path / "a.png")


def test_several_paths_are_read_one_after_the_other(tmp_path):
    write_json_lines(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two"}])
    (tmp_path / "b.txt").write_text("three")
    paths = [str(tmp_path / "b.txt"), str(tmp_path / "a.jsonl"), str(tmp_path)]
    assert list(iterate_texts(paths)) == ["three", "one", "two", "one", "two", "three"]


def test_the_home_folder_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("at home")
    assert list(iterate_texts(["~/a.txt"])) == ["at home"]


@pytest.mark.parametrize(
    ("source", "local"),
    [
        ("wikitext", False),
        ("allenai/c4", False),
        ("wikimedia/wikipedia:20231101.en", False),
        ("wikimedia/wikipedia:20231101.en:train", False),
        ("nobody/data-v1.1", False),
        ("./wikitext", True),
        ("~/texts", True),
        ("/data/texts", True),
        ("data/books/old", True),
        ("missing.txt", True),
        ("data/missing.jsonl.gz", True),
    ],
)
def test_what_is_a_file_and_what_a_data_set(source, local):
    assert is_local(source) == local
    if not local:
        assert parts_of(source) == [source]


def test_what_exists_is_local(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").touch()
    assert is_local("books")
    assert parts_of("books") == ["books/a.txt"]


def test_a_data_set_without_a_network():
    with pytest.raises(NetworkError, match="nobody/nothing: no such file or folder, and the data"):
        list(iterate_texts(["nobody/nothing"]))


def test_a_data_set_is_streamed(monkeypatch):
    import datasets

    asked = []

    def load(repo, config, *, split, streaming):
        asked.append((repo, config, split, streaming))
        return iter([{"text": "one"}, {"text": "two"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert list(load_hub_documents("repo/name")) == ["one", "two"]
    assert list(load_hub_documents("repo/name:en:test")) == ["one", "two"]
    assert asked == [("repo/name", None, "train", True), ("repo/name", "en", "test", True)]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ConnectionError("no route"), NetworkError, "the data set hub can't be reached .no route"),
        (ValueError("unknown split"), DataError, "not a data set that can be read .unknown split"),
    ],
)
def test_what_the_hub_says_is_passed_on(monkeypatch, error, kind, message):
    import datasets

    def load(*_args, **_options):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(kind, match=message):
        list(load_hub_documents("repo/name"))


def test_a_data_set_that_does_not_exist(monkeypatch):
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    def load(*_args, **_options):
        raise DatasetNotFoundError("Dataset 'repo/name' doesn't exist on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match="repo/name: no such file or folder, and no such data set"):
        list(load_hub_documents("repo/name"))


@given(st.text(st.sampled_from("ab \n"), max_size=200), st.integers(1, 40))
@example(" " * 30, 7)
@example("a" * 30, 7)
def test_pieces_join_to_the_document(document, size):
    pieces = list(split_pieces(document, size))
    assert "".join(pieces) == document
    assert all(0 < len(piece) <= size for piece in pieces)


@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), min_size=1), st.integers(4, 40))
def test_words_are_not_cut(words, size):
    for piece in split_pieces(" ".join(words), size):
        assert set(piece.split()) <= {"a", "bb", "ccc"}


def test_long_documents_are_cut_at_the_size_given_above():
    lengths = [len(piece) for piece in split_pieces("ab " * 20_000)]
    assert max(lengths) <= text_module.PIECE_CHARS
    assert min(lengths[:-1]) > text_module.PIECE_CHARS - 5
