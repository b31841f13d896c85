"""Rows of tokens packed from one file, or one data set, with a cursor that resumes exactly.

Every row is full. A row may hold several short documents, whose positions restart; long documents
fill row after row.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from saesteer.data.labels import open_documents
from saesteer.data.text import file_identity, is_local, split_pieces

_PIECES_AT_ONCE = 64


class PackedRow(NamedTuple):
    """One row of tokens, as lists."""

    ids: list[int]
    positions: list[int]
    labels: list[int] | list[float]


@dataclass
class FileCursor:
    """How far one file has been read: whole passes, pieces of this pass, and tokens in hand.

    `fresh` says that the document in hand has had no token yet. `labels` are empty where the file
    has none.
    """

    passes: int = 0
    pieces: int = 0
    fresh: bool = False
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


class FileReader:
    """Rows out of one file (or hub data set), restartable from its cursor."""

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        context: int,
        passes: int,
        text_field: str | None,
        *,
        labelled: bool = False,
    ) -> None:
        self.name = name
        self.cursor = FileCursor()
        self._tokenizer = tokenizer
        self._context = context
        self._passes = passes
        self._field = text_field
        self._labelled = labelled
        self._pieces: Iterator[_Piece] | None = None

    def next_row(self) -> PackedRow | None:
        """One full row; None once every pass is over."""
        cursor = self.cursor
        while len(cursor.tokens) < self._context:
            piece = self._next_piece()
            if piece is None:
                return None
            ids = piece.ids
            starts = piece.starts_document or cursor.fresh or not cursor.positions
            first = 0 if starts else cursor.positions[-1] + 1
            cursor.fresh = starts and not ids
            cursor.tokens += ids
            cursor.positions += range(first, first + len(ids))
            if piece.label is not None:
                cursor.labels += [piece.label] * len(ids)
        return self._take(self._context)

    def _take(self, n: int) -> PackedRow:
        """The first n tokens in hand, which are in hand no longer."""
        cursor = self.cursor
        labels = cursor.labels[:n] if self._labelled else [math.nan] * n
        row = PackedRow(cursor.tokens[:n], _rebase(cursor.positions[:n]), labels)
        del cursor.tokens[:n], cursor.positions[:n], cursor.labels[:n]
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

    def restore(self, state: dict[str, Any]) -> None:
        """Go to where a saved cursor stood."""
        self.cursor = FileCursor(**state)
        self._pieces = self._open(self.cursor.pieces)

    def _next_piece(self) -> _Piece | None:
        while self.cursor.passes < self._passes:
            self._pieces = self._pieces or self._open()
            piece = next(self._pieces, None)
            if piece is not None:
                self.cursor.pieces += 1
                return piece
            if self.cursor.pieces == 0:
                return None
            self._pieces, self.cursor.pieces = None, 0
            self.cursor.passes += 1
        return None

    def _open(self, skip: int = 0) -> Iterator[_Piece]:
        """Pieces behind the first `skip`, tokenised many at a time: the tokenizer then takes all
        cores, and for that long no other thread waits for Python."""
        pieces = itertools.islice(self._read(), skip, None)
        while batch := list(itertools.islice(pieces, _PIECES_AT_ONCE)):
            texts = [text for _, text, _ in batch]
            rows = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
            for (starts, _, label), ids in zip(batch, rows, strict=True):
                yield _Piece(starts, ids, label)

    def _read(self) -> Iterator[tuple[bool, str, int | None]]:
        for document, label in open_documents(self.name, self._field, labelled=self._labelled):
            for index, text in enumerate(split_pieces(document)):
                yield index == 0, text, label


class _Piece(NamedTuple):
    """Tokens of some of a document, whether it is its beginning, and the document's label."""

    starts_document: bool
    ids: list[int]
    label: int | None


def _rebase(positions: Sequence[int]) -> list[int]:
    """Positions of a row: its first document starts at 0, wherever the row was cut from it."""
    head = next((i for i, p in enumerate(positions) if p == 0), len(positions))
    return [*range(head), *positions[head:]]
