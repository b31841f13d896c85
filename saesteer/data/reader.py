"""Tokens of one file, or one data set, with a cursor that resumes exactly.

The cursor holds no text, only how much of it was read; what is in hand is tokenised again.
"""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from saesteer.data.labels import open_documents
from saesteer.data.text import file_identity, is_local, split_pieces

_PIECES_AT_ONCE = 64


class PackedRow(NamedTuple):
    """A row of tokens, or a part of one, as lists; `labels` are empty where a file has none."""

    ids: list[int]
    positions: list[int]
    labels: list[int]

    def followed_by(self, part: PackedRow) -> PackedRow:
        """This part of a row and another one behind it."""
        return PackedRow(*(mine + theirs for mine, theirs in zip(self, part, strict=True)))


class FileCursor(NamedTuple):
    """How far one file has been read: whole passes, whole pieces of this pass, and how many tokens
    of the piece that comes then are left; 0 while none has been taken."""

    passes: int = 0
    pieces: int = 0
    left: int = 0

    @classmethod
    def of(cls, saved: Sequence[int] | Mapping[str, Any]) -> FileCursor:
        """The cursor of a saved state; older ones held the tokens in hand, of a piece that they
        counted as read, and behind the last pass a rest that no row was made of."""
        if not isinstance(saved, Mapping):
            return cls(*saved)
        left = len(saved["tokens"]) if saved["pieces"] else 0
        return cls(saved["passes"], saved["pieces"] - (left > 0), left)


class FileReader:
    """Tokens out of one file (or hub data set), restartable from its cursor.

    Args:
        open_files: the readers of a stream that keep their files open between two looks into them.
            Where they are too many for the system, the others open theirs again.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        passes: int,
        text_field: str | None,
        open_files: set[FileReader],
        *,
        labelled: bool = False,
    ) -> None:
        self.name = name
        self.cursor = FileCursor()
        self._tokenizer = tokenizer
        self._passes = passes
        self._field = text_field
        self._open_files = open_files
        self._labelled = labelled
        self._texts: Iterator[_Text] | None = None
        self._ahead: deque[_Piece] = deque()

    def take(self, n: int) -> PackedRow:
        """The next `n` tokens; fewer only where the last pass ends.

        Positions restart with each document, and begin at 0 also in the middle of one.
        """
        row, position = PackedRow([], [], []), 0
        while (missing := n - len(row.ids)) and (piece := self._piece()) is not None:
            passes, pieces, left = self.cursor
            if piece.starts_document and not left:
                position = 0
            rest = piece.ids[-left:]  # [-0:] is all of it
            ids = rest[:missing]
            row.ids.extend(ids)
            row.positions.extend(range(position, position + len(ids)))
            if piece.label is not None:
                row.labels.extend([piece.label] * len(ids))
            position += len(ids)
            if len(ids) < len(rest):
                self.cursor = FileCursor(passes, pieces, len(rest) - len(ids))
            else:
                self._ahead.popleft()
                self.cursor = FileCursor(passes, pieces + 1)
        return row

    @cached_property
    def identity(self) -> str:
        """What a changed file shows by: its name, its size and a digest of its ends; a data set's
        name.

        Raises:
            DataError: the file can't be read.
        """
        return file_identity(Path(self.name)) if is_local(self.name) else self.name

    @property
    def over(self) -> bool:
        """Whether every pass is."""
        return self.cursor.passes >= self._passes

    def restore(self, cursor: FileCursor) -> None:
        """Go to where a saved cursor stood."""
        self.cursor = cursor
        self._texts = None
        self._ahead.clear()

    def _piece(self) -> _Piece | None:
        """The piece in hand, or else the next one; None once every pass is over."""
        while not self._ahead and not self.over:
            self._ahead.extend(self._read_on())
            if not self._ahead:
                passes, pieces, _ = self.cursor
                self.restore(FileCursor(passes + 1 if pieces else self._passes))
        return self._ahead[0] if self._ahead else None

    def _read_on(self) -> list[_Piece]:
        """More pieces, tokenised many at a time: the tokenizer then takes all cores, and for that
        long no other thread waits for Python."""
        if self._texts is None:
            self._texts = itertools.islice(self._read(), self.cursor.pieces, None)
        batch = list(itertools.islice(self._texts, _PIECES_AT_ONCE))
        self._keep_open(len(batch) == _PIECES_AT_ONCE)
        texts = [each.text for each in batch]
        rows = self._tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return [_Piece(s, ids, label) for (s, _, label), ids in zip(batch, rows, strict=True)]

    def _keep_open(self, more: bool) -> None:
        """Close a file of which there is more where too many others are open already."""
        if not more:
            self._open_files.discard(self)
        elif len(self._open_files) < _may_be_open() or not is_local(self.name):
            self._open_files.add(self)
        elif self not in self._open_files:
            self._texts = None

    def _read(self) -> Iterator[_Text]:
        for document, label in open_documents(self.name, self._field, labelled=self._labelled):
            for index, text in enumerate(split_pieces(document)):
                yield _Text(index == 0, text, label)


class _Text(NamedTuple):
    """Some of a document, whether it is its beginning, and the document's label."""

    starts_document: bool
    text: str
    label: int | None


class _Piece(NamedTuple):
    """The same as tokens."""

    starts_document: bool
    ids: list[int]
    label: int | None


def _may_be_open() -> int:
    """Half of the files that the system lets this process have open."""
    try:
        from resource import RLIMIT_NOFILE, getrlimit
    except ImportError:  # Windows, which has some 8,000 for each
        return 4096
    most, _ = getrlimit(RLIMIT_NOFILE)
    return most // 2 if most > 0 else sys.maxsize
