"""Files that are either whole or not there."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from saesteer.errors import OutputError


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file or a folder's entries are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file aside, sync it, and put it in place.

    Raises:
        OutputError: the disk is full or the folder can't be written.
    """
    scratch = path.with_name(f".{path.name}.writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(text, encoding="utf-8")
        sync(scratch)
        os.replace(scratch, path)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink()
        raise OutputError(f"{path} can't be written: {error.strerror}.") from error
