"""What is written stands whole in its place, or what was there before still does."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from saesteer import files
from saesteer.errors import OutputError
from saesteer.files import put_in_place, whole_folder, write_text


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes `os.replace` fail where something new would take this place."""
    replace = os.replace

    def refuse(place: Path) -> None:
        def replacing(source: Any, target: Any) -> None:
            if Path(target) == place and not Path(source).name.endswith(".old"):
                raise OSError(28, "No space left on device")
            replace(source, target)

        monkeypatch.setattr(os, "replace", replacing)

    return refuse


def fill(folder: Path, text: str) -> None:
    with whole_folder(folder) as made:
        (made / "text").write_text(text)


def test_a_folder_takes_the_place_of_an_older_one_and_leaves_nothing_beside(tmp_path) -> None:
    fill(tmp_path / "deep" / "it", "old")
    fill(tmp_path / "deep" / "it", "new")
    assert (tmp_path / "deep" / "it" / "text").read_text() == "new"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["it"]


def test_a_folder_that_can_t_be_put_in_place_leaves_the_older_one(tmp_path, refuse) -> None:
    fill(tmp_path / "it", "old")
    refuse(tmp_path / "it")
    with pytest.raises(OutputError, match=r"it can't be written \(No space left on device\)\."):
        fill(tmp_path / "it", "new")
    assert (tmp_path / "it" / "text").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_a_folder_that_is_not_finished_leaves_the_older_one(tmp_path) -> None:
    fill(tmp_path / "it", "old")
    with suppress(KeyError), whole_folder(tmp_path / "it") as made:
        (made / "text").write_text("new")
        raise KeyError
    assert (tmp_path / "it" / "text").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_a_link_stays_and_what_it_links_to_is_replaced(tmp_path) -> None:
    fill(tmp_path / "it", "old")
    (tmp_path / "link").symlink_to(tmp_path / "it")
    fill(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "it" / "text").read_text() == "new"


@pytest.mark.parametrize("name", ["a", "b"])
def test_files_go_in_all_or_none(tmp_path, refuse, name) -> None:
    new, place = [tmp_path / "new" / n for n in "ab"], tmp_path / "place"
    for folder, text in ((tmp_path / "new", "new"), (place, "old")):
        folder.mkdir()
        for n in "ab":
            (folder / n).write_text(text)
    (place / f".{name}.old").write_text("left by a kill")
    refuse(place / name)
    with pytest.raises(OSError, match="No space"):
        put_in_place(new, place)
    assert {path.name: path.read_text() for path in place.iterdir()} == {"a": "old", "b": "old"}


def test_a_first_file_goes_again_where_the_second_can_t_be_put(tmp_path, refuse) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "place").mkdir()
    for n in "ab":
        (tmp_path / "new" / n).write_text(n)
    refuse(tmp_path / "place" / "b")
    with pytest.raises(OSError, match="No space"):
        put_in_place([tmp_path / "new" / n for n in "ab"], tmp_path / "place")
    assert list((tmp_path / "place").iterdir()) == []


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is synced and what is renamed, by name and in order."""
    done: list[tuple[str, str]] = []
    sync, replace = files.sync, os.replace

    def syncing(path: Path) -> None:
        done.append(("sync", path.name))
        sync(path)

    def replacing(source: Any, target: Any) -> None:
        done.append(("replace", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(files, "sync", syncing)
    monkeypatch.setattr(os, "replace", replacing)
    return done


def test_a_text_is_on_disk_before_it_is_renamed(tmp_path, order) -> None:
    write_text(tmp_path / "note", "a")
    assert order == [("sync", ".note.writing"), ("replace", "note")]


def test_a_folder_and_its_files_are_on_disk_before_it_is_renamed(tmp_path, order) -> None:
    with whole_folder(tmp_path / "it") as made:
        (made / "inner").mkdir()
        (made / "inner" / "b").write_text("b")
    synced, moved, last = order[:-2], order[-2], order[-1]
    assert sorted(synced) == [("sync", "b"), ("sync", "inner"), ("sync", "it")]
    assert (moved, last) == (("replace", "it"), ("sync", tmp_path.name))
