"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from saesteer.errors import OutputError, SaesteerError

if TYPE_CHECKING:
    from torch import Tensor

_ESCAPED_HALF, _HALF = re.compile(r"\\u[dD][89a-fA-F]"), re.compile(r"[\ud800-\udfff]")
_ROOM = "a" * 64
"""Longer than any file name that is put behind a folder's."""


def path_of(ref: str | Path, error: type[SaesteerError]) -> Path:
    """`ref` as a path that the system can look up, whether or not something is there.

    `Path.exists` and its like raise for other names, and opening them gives errors of no tree.

    Raises:
        SaesteerError: of the kind `error`, where it is neither text nor path, or a name is empty,
            too long or holds a null character.
    """
    if ref == "":
        raise error("an empty name is no file or folder; '.' is the current folder.")
    shown = f"{str(ref)[:60]}..." if len(str(ref)) > 60 else str(ref)
    if not isinstance(ref, (str, os.PathLike)):
        raise error(f"{shown} is no path; give a text or a Path.")
    try:
        os.lstat(os.path.join(ref, _ROOM))
    except ValueError:
        raise error(f"{shown!r} holds a character that no file's name may have.") from None
    except OSError as caught:
        if caught.errno == errno.ENAMETOOLONG:
            raise error(f"{shown!r} is too long for a file's name; check the path.") from None
    return Path(ref)


def lines_of(text: str) -> list[tuple[int, str]]:
    """Its lines with their numbers from 1, but for empty ones.

    Only a line feed ends a line: JSON holds the other line ends of Unicode as they are.
    """
    return [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]


def read_json_lines(path: Path, error: type[SaesteerError]) -> list[tuple[int, Any]]:
    """The records of a file of JSON lines, with their line numbers.

    Raises:
        SaesteerError: of the kind `error`: the file can't be read, or a line is not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as caught:
        raise error(f"{path} can't be read: {caught}.") from caught
    return [(n, parse_json(line, f"{path}, line {n}", error)) for n, line in lines_of(text)]


def parse_json(line: str, where: str, error: type[SaesteerError]) -> Any:
    """A line as a record, as `json_value` reads it.

    Raises:
        SaesteerError: of the kind `error`: it is not JSON.
    """
    try:
        return json_value(line)
    except (ValueError, RecursionError) as caught:
        reason = getattr(caught, "msg", caught)
        raise error(f"{where}: not valid JSON ({reason}); expected one record a line.") from caught


def json_value(text: str) -> Any:
    """What JSON says; a lone half of a surrogate pair, which is JSON but no text, becomes the
    replacement character.

    Raises:
        ValueError, RecursionError: it is not JSON.
    """
    value = json.loads(text)
    if _ESCAPED_HALF.search(text):
        value = json.loads(_HALF.sub("\ufffd", json.dumps(value, ensure_ascii=False)))
    return value


def json_text(value: Any, indent: int | None = 1, *, ascii_only: bool = True) -> str:
    """JSON that any reader takes: tuples and sets as lists, paths as texts, NaN and infinities as
    null."""
    return json.dumps(_plain(value), indent=indent, ensure_ascii=ascii_only, allow_nan=False)


def _plain(value: Any) -> Any:
    match value:
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | set():
            return [_plain(item) for item in value]
        case float():
            return value if math.isfinite(value) else None
        case None | bool() | int() | str():
            return value
        case _:
            return _plain(value.item()) if hasattr(value, "item") else str(value)


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_text(n_bytes: float) -> str:
    """So many bytes in the unit that fits."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:,.1f} {name}"
    return f"{n_bytes:.0f} bytes"


def sync(path: Path) -> None:
    """Wait until a file or a folder's entries are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path, advice: str = "choose another folder") -> Iterator[None]:
    """Make a folder and hold it against other processes that want it; a killed one lets go.

    Args:
        advice: what to do where another process holds it.

    Raises:
        OutputError: it can't be made or written, or another process holds it.
    """
    path = path_of(folder, OutputError)
    lock = FileLock(path / ".lock", timeout=0)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise OutputError(f"another process is at work in {path}; {advice}.") from None
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror}.") from error
    try:
        yield
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file that others may read as the umask allows; safetensors itself lets
    only its owner do so.

    Raises:
        OSError: the disk is full or the place can't be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, dict(metadata) if metadata else None)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    path.chmod(mode)


def write_text(path: Path, text: str) -> None:
    """Write a text file aside, sync it, and put it in place.

    Raises:
        OutputError: the disk is full or the folder can't be written.
    """
    path = path_of(path, OutputError)
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


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which then takes the place of `folder`, or of what this links to.

    Raises:
        OutputError: it can't be written; what lay there still does.
    """
    with whole_file(folder) as made:
        made.mkdir()
        yield made


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Where to write a file, which then takes the place of `file`, or of what this links to.

    Raises:
        OutputError: it can't be written; what lay there still does.
    """
    place = Path(os.path.realpath(file))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".saving-") as scratch:
            made = Path(scratch) / place.name
            yield made
            put_in_place([made], place.parent)
    except OSError as error:
        raise OutputError(f"{file} can't be written ({error.strerror or error}).") from error


def put_in_place(made: Sequence[Path], folder: Path) -> None:
    """Sync files or folders and move them into `folder`, all of them or none.

    What has their names there is put aside first, so that a kill in between leaves names missing,
    never old beside new.

    Raises:
        OSError: one of them can't be moved; what was there is there again.
    """
    places = [(folder / path.name, folder / f".{path.name}.old") for path in made]
    for path in made:
        for part in (*path.rglob("*"), path):
            sync(part)
    for _, aside in places:
        _remove(aside)
    try:
        for place, aside in places:
            if os.path.lexists(place):
                os.replace(place, aside)
        for path, (place, _) in zip(made, places, strict=True):
            os.replace(path, place)
        sync(folder)
    except BaseException:
        for path, (place, aside) in zip(made, places, strict=True):
            with suppress(OSError):
                if os.path.lexists(aside):
                    _remove(place)
                    os.replace(aside, place)
                elif not path.exists():
                    _remove(place)
        raise
    for _, aside in places:
        _remove(aside)


def _remove(path: Path) -> None:
    """A file, a link or a folder with all that it holds, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
