"""Documents out of whatever holds text, in an order that a cursor can return to.

A source is a file, a folder, or the name of a `datasets` data set. Files of one source are read
side by side, a document from each in turn, so that neighbours in the stream are strangers; sources
are mixed by weight in a fixed rotation. The whole position is a few integers per file.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import itertools
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, final

from saesteer.errors import DataError, NetworkError
from saesteer.files import parse_json, path_of

PIECE_CHARS = 20_000
"""Long documents are handed on in pieces of about this size, cut at a line or word end."""

TEXT_FIELDS = ("text", "passage", "document", "content")
_END_BYTES = 64 * 1024
_PLAIN = (".txt", ".md", ".text")
_JSON = (".jsonl", ".json", ".ndjson")
_PACKED = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_DAMAGE = (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError, zlib.error, zipfile.BadZipFile)
_LOCKED = (RuntimeError, NotImplementedError)  # zipfile's for a password and a foreign compression


def is_local(source: str) -> bool:
    """Whether a source means a file or folder, there or not, rather than a `datasets` name."""
    path = path_of(source, DataError).expanduser()
    looks_local = source.startswith((".", "/", "~")) or source.partition(":")[0].count("/") > 1
    return path.exists() or looks_local or _readable(path)


def parts_of(source: str) -> list[str]:
    """What a source is read as: its files one by one, or the data set as a whole.

    Raises:
        DataError: a local source that is missing or holds no text.
    """
    if not is_local(source):
        return [source]
    return [str(file) for file in find_files(Path(source).expanduser())]


def open_part(part: str, field: str | None = None) -> Iterator[str]:
    """The documents of one of `parts_of` a source."""
    return read_documents(Path(part), field) if is_local(part) else load_hub_documents(part, field)


def file_identity(path: Path) -> str:
    """Name and size of a file, and a digest of its first and last 64 KiB; whole files are large.

    Raises:
        DataError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            ends = file.read(_END_BYTES)
            file.seek(max(_END_BYTES, size - _END_BYTES))
            ends += file.read(_END_BYTES)
    except OSError as error:
        raise DataError(f"{path}: damaged or unreadable ({error}).") from error
    return f"{path.name} ({size:,} bytes, {hashlib.sha256(ends).hexdigest()[:12]})"


def find_files(path: Path) -> list[Path]:
    """The readable text files at `path`, sorted: itself, or everything under a folder.

    Raises:
        DataError: nothing there, or nothing that can be read.
    """
    if path.is_file():
        if not _readable(path):
            raise DataError(f"{path}: unknown kind of file; expected {_expected()}.")
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder.")
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file() and _readable(p))
    except OSError as error:
        raise DataError(f"{path}: {error.filename} can't be read: {error.strerror}.") from error
    if not files:
        raise DataError(f"{path}: the folder holds no text files; expected {_expected()}.")
    return files


def _expected() -> str:
    kinds = ", ".join((*_PLAIN, *_JSON, ".zip"))
    return f"{kinds} (also as {', '.join(_PACKED)})"


def _readable(path: Path) -> bool:
    suffixes = path.suffixes
    if suffixes and suffixes[-1] in _PACKED:
        suffixes = suffixes[:-1]
    return bool(suffixes) and suffixes[-1] in (*_PLAIN, *_JSON, ".zip")


def read_documents(path: Path, field: str | None = None) -> Iterator[str]:
    """The documents of one file: JSON lines one each, a text file as one, a zip's members each.

    Raises:
        DataError: the file is damaged, or its records have no text field.
    """
    try:
        if path.suffix == ".zip":
            yield from _zip_documents(path)
            return
        if _is_json(path):
            yield from _json_documents(path, field)
            return
        with _open_text(path) as file:
            document = file.read()
        yield document  # closed by now: of a folder, many files are read side by side
    except (*_DAMAGE, *_LOCKED) as error:
        raise DataError(f"{path}: damaged or unreadable ({error}).") from error


def _is_json(path: Path) -> bool:
    return any(suffix in _JSON for suffix in path.suffixes[-2:])


@contextmanager
def _open_text(path: Path) -> Iterator[IO[str]]:
    opener: Callable[..., Any] = _PACKED.get(path.suffix, open)
    with opener(path, "rt", encoding="utf-8-sig") as file:
        yield file


def _zip_documents(path: Path) -> Iterator[str]:
    """Text members in name order, read in memory; nothing is unpacked to disk."""
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.lower().endswith(_PLAIN):
                with archive.open(name) as member:
                    yield io.TextIOWrapper(member, encoding="utf-8-sig", errors="replace").read()


def read_records(path: Path) -> Iterator[tuple[int, Any]]:
    """The records of a file of JSON lines, with their line numbers.

    Raises:
        DataError: the file is damaged, or holds no JSON.
    """
    try:
        with _open_text(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, parse_json(line, f"{path}, line {number}", DataError)
    except _DAMAGE as error:
        raise DataError(f"{path}: damaged or unreadable ({error}).") from error


def _json_documents(path: Path, field: str | None) -> Iterator[str]:
    previous = ""
    for number, record in read_records(path):
        text = text_of(record, path, number, field)
        if text != previous:  # question sets repeat one passage for several questions
            yield text
        previous = text


def text_of(record: Any, path: Path, number: int, field: str | None) -> str:
    """The text of a record.

    Raises:
        DataError: it has none under `field` or the usual names.
    """
    if isinstance(record, str):
        return record
    names = (field,) if field else TEXT_FIELDS
    for name in names:
        if isinstance(record, dict) and isinstance(record.get(name), str):
            return record[name]
    raise DataError(
        f"{path}, line {number}: no text under {' or '.join(map(repr, names))}; "
        "name its key by --field, or by text.field in a config."
    )


def load_hub_documents(name: str, field: str | None = None) -> Iterator[str]:
    """Documents of a `datasets` data set, streamed; `name` may be `repo:config:split`.

    Raises:
        NetworkError: the hub can't be reached.
        DataError: no such data set, or no text field.
    """
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    repo, _, rest = name.partition(":")
    config, _, split = rest.partition(":")
    try:
        rows = datasets.load_dataset(repo, config or None, split=split or "train", streaming=True)
        for number, record in enumerate(rows, 1):
            yield text_of(record, Path(name), number, field)
    except DatasetNotFoundError as error:
        raise DataError(f"{name}: no such file or folder, and no such data set.") from error
    except OSError as error:  # a ConnectionError is one
        raise NetworkError(
            f"{name}: no such file or folder, and the data set hub can't be reached ({error})."
        ) from error
    except (ValueError, RuntimeError) as error:
        raise DataError(f"{name}: not a data set that can be read ({str(error)[:200]}).") from error


def split_pieces(document: str, size: int = PIECE_CHARS) -> Iterator[str]:
    """Pieces of about `size` characters whose concatenation is the document."""
    start = 0
    while start < len(document):
        stop = min(start + size, len(document))
        if stop < len(document):
            cut = max(document.rfind("\n", start, stop), document.rfind(" ", start, stop))
            stop = cut if cut > start else stop
        yield document[start:stop]
        start = stop


class Part(NamedTuple):
    """A file or data set: its number among all parts, the path it was found at, and its name."""

    number: int
    path: str
    name: str


@final
@dataclass(frozen=True)
class Texts(Iterable[str]):
    """All documents of some paths, file after file; `pieces_in_turn` reads paths side by side.

    Attributes:
        sources: the parts of each path, in the order in which the paths were given.
        field: key of the text in JSON records.
    """

    sources: tuple[tuple[Part, ...], ...]
    field: str | None = None

    def __iter__(self) -> Iterator[str]:
        parts = (part for source in self.sources for part in source)
        return (document for part in parts for document in open_part(part.name, self.field))

    @property
    def paths(self) -> list[str]:
        """The paths as they were given, each once."""
        return list(dict.fromkeys(source[0].path for source in self.sources))


def iterate_texts(paths: str | Sequence[str], field: str | None = None) -> Texts:
    """All documents of one path or several, once, file after file.

    Scoring that reads a number of tokens takes equal parts of it from the paths, and from the files
    of a path; one that ends early leaves its share to the others.

    Raises:
        DataError: at once, as `parts_of`.
    """
    given = [paths] if isinstance(paths, str) else paths
    numbers = itertools.count()
    sources = [[Part(next(numbers), path, name) for name in parts_of(path)] for path in given]
    return Texts(tuple(map(tuple, sources)), field)
