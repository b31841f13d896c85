"""Documents that each carry a label, for losses that need to be told what a token is about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saesteer.data.text import find_files, open_part, read_records, text_of
from saesteer.errors import DataError


def read_labelled(path: Path, field: str | None = None) -> Iterator[tuple[str, int]]:
    """Text and label of each record of a JSON-lines file; other splits than train are left out.

    Raises:
        DataError: the file is damaged, a record has no text, or its label is not 0 or 1.
    """
    for number, record in read_records(path):
        text, label = text_of(record, path, number, field), _label_of(record, path, number)
        if record.get("split", "train") == "train":
            yield text, label


def open_documents(
    part: str, field: str | None, *, labelled: bool
) -> Iterator[tuple[str, int | None]]:
    """The documents of one of `parts_of` a source, with their labels if it has some."""
    if labelled:
        yield from read_labelled(Path(part), field)
    else:
        yield from ((document, None) for document in open_part(part, field))


def check_labels(source: str, field: str | None = None) -> None:
    """Read a labelled file or folder once, so that a bad label shows before training starts.

    Raises:
        DataError: as `read_labelled` does, or all labels are the same.
    """
    files = find_files(Path(source).expanduser())
    seen = {label for file in files for text, label in read_labelled(file, field) if text.strip()}
    if seen != {0, 1}:
        got = f"all {seen.pop()}" if seen else "missing"
        raise DataError(f"{source}: labels are {got}; both 0 and 1 are needed.")


def _label_of(record: Any, path: Path, number: int) -> int:
    label = record.get("label") if isinstance(record, dict) else None
    if label in (0, 1):
        return int(label)
    got = "no label" if label is None else f"label {label!r}"
    raise DataError(f"{path}, line {number}: {got}; expected 0 or 1 under 'label'.")
