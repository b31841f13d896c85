"""Rows of tokens packed from many documents, with a cursor that resumes exactly.

Every row is full. A row may hold several short documents; their positions restart, and attention
does not cross from one to the next. Long documents fill row after row.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saesteer.data.labels import open_documents
from saesteer.data.text import file_identity, is_local, parts_of, split_pieces
from saesteer.errors import DataError

_PIECES_AT_ONCE = 64


@dataclass(frozen=True)
class TokenRows:
    """Packed tokens and their positions within their documents, both `[rows, context]`.

    `labels` are those of the documents, NaN where one has none, or the number of the source; None
    if no source has any.
    """

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor | None = None


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


class TokenStream:
    """Batches of packed rows, from weighted sources in a fixed rotation.

    Args:
        sources: files, folders or data set names.
        weights: rows taken from each source per turn; default one each.
        passes: how often each file is read before it leaves the rotation.
        labelled: more sources, of JSON lines with labels; one row from each per turn, again and
            again until the others have ended.
        numbered: label every token with the number of its source instead, from 0.

    Raises:
        DataError: a source has no readable file.
    """

    def __init__(
        self,
        sources: Sequence[str],
        tokenizer: Any,
        *,
        context: int,
        weights: Sequence[int] | None = None,
        passes: int = 1,
        text_field: str | None = None,
        labelled: Sequence[str] = (),
        numbered: bool = False,
    ) -> None:
        weights = list(weights or [1] * len(sources))
        if not sources or len(weights) != len(sources) or min(weights) < 1:
            raise DataError(
                f"text.weights needs one whole number >= 1 for each of the {len(sources)} paths "
                f"of text.path, got {weights}."
            )
        self.context = context
        self._labelled, self._numbered = bool(labelled), numbered
        both = [*((s, passes) for s in sources), *((s, sys.maxsize) for s in labelled)]
        weights += [1] * len(labelled)
        self._turns = [i for i, weight in enumerate(weights) for _ in range(weight)]
        self._readers = [
            [
                FileReader(part, tokenizer, context, turns, text_field, labelled=i >= len(sources))
                for part in parts_of(source)
            ]
            for i, (source, turns) in enumerate(both)
        ]
        self._endless = len(sources)
        self._turn = 0
        self._next_file = [0] * len(both)
        self._ended: set[str] = set()

    def next_rows(self, n_rows: int) -> TokenRows | None:
        """`n_rows` packed rows, fewer at the very end; None once everything is read."""
        rows = list(itertools.islice(iter(self._next_row, None), n_rows))
        if not rows:
            return None
        ids, positions, labels = (torch.tensor(column) for column in zip(*rows, strict=True))
        return TokenRows(ids, positions, labels if self._labelled or self._numbered else None)

    def state(self) -> dict[str, Any]:
        """Where the stream stands, as JSON."""
        return {
            "turn": self._turn,
            "next_file": list(self._next_file),
            "ended": sorted(self._ended),
            "files": [[asdict(r.cursor) for r in group] for group in self._readers],
            "identities": self._identities(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()` of a stream over the same files.

        Raises:
            DataError: the files differ from those of the saved stream.
        """
        here = self._identities()
        saved = state.get("identities", here)
        if here != saved:
            new, gone = sorted({*here} - {*saved}), sorted({*saved} - {*here})
            raise DataError(
                f"the text has changed since it was read: now {new[:3]}, then {gone[:3]}; "
                "put it back as it was, or give another folder."
            )
        self._turn, self._next_file = state["turn"], list(state["next_file"])
        for group, cursors in zip(self._readers, state["files"], strict=True):
            for reader, cursor in zip(group, cursors, strict=True):
                reader.restore(cursor)
        self._ended = {key for key in state["ended"] if self._has_ended(key)}

    def _identities(self) -> list[str]:
        return [reader.identity for group in self._readers for reader in group]

    def _next_row(self) -> PackedRow | None:
        if self._labelled and self._over():
            return None
        for _ in range(len(self._turns)):
            source = self._turns[self._turn]
            self._turn = (self._turn + 1) % len(self._turns)
            if row := self._row_of(source):
                return row._replace(labels=[source] * self.context) if self._numbered else row
        return None

    def _has_ended(self, key: str) -> bool:
        """Whether a file that had ended has by now: there may be more passes than there were."""
        source, index = map(int, key.split("."))
        return self._readers[source][index].over

    def _over(self) -> bool:
        """Whether every file that may end has."""
        groups = self._readers[: self._endless]
        return all(f"{s}.{i}" in self._ended for s, g in enumerate(groups) for i in range(len(g)))

    def _row_of(self, source: int) -> PackedRow | None:
        readers = self._readers[source]
        for _ in readers:
            index = self._next_file[source]
            self._next_file[source] = (index + 1) % len(readers)
            key = f"{source}.{index}"
            if key in self._ended:
                continue
            if row := readers[index].next_row():
                return row
            self._ended.add(key)
        return None
