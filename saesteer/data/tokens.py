"""Batches of packed rows from several sources in turn, with a cursor that resumes exactly.

Every row is full. A row may hold several short documents, whose positions restart; long documents
fill row after row. Documents that share a row don't see each other: attention does not cross from
one to the next. What a file has left when it ends begins a row that the next file of its source
fills, so that only the last one drops something, of less than a row.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saesteer.data.reader import FileCursor, FileReader, PackedRow
from saesteer.data.text import parts_of
from saesteer.errors import DataError


@dataclass(frozen=True)
class TokenRows:
    """Packed tokens and their positions within their documents, both `[rows, context]`.

    `labels` are those of the documents, NaN where one has none, or the number of the source; None
    if no source has any.
    """

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor | None = None


_NOTHING = PackedRow([], [], [])


def _interleaved(weights: Sequence[int]) -> list[int]:
    """Each source's number as often as its weight says, evenly spread: a batch of few rows, as in
    training end to end, has some of each."""
    spread = [((2 * i + 1) / n, source) for source, n in enumerate(weights) for i in range(n)]
    return [source for _, source in sorted(spread)]


class TokenStream:
    """Batches of packed rows, from weighted sources in a fixed rotation.

    Args:
        sources: files, folders or data set names.
        weights: rows taken from each source per turn, one source's between the others'; default
            one each.
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
        self._turns = _interleaved(weights)
        open_files: set[FileReader] = set()
        self._readers = [
            [
                FileReader(
                    part, tokenizer, turns, text_field, open_files, labelled=i >= len(sources)
                )
                for part in parts_of(source)
            ]
            for i, (source, turns) in enumerate(both)
        ]
        self._endless = len(sources)
        self._turn = 0
        self._next_file = [0] * len(both)
        self._begun = [_NOTHING] * len(both)
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
            "begun": [[list(column) for column in row] for row in self._begun],
            "files": [[list(r.cursor) for r in group] for group in self._readers],
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
        begun = state.get("begun", [_NOTHING] * len(self._readers))  # not in older states
        self._begun = [PackedRow(*row) for row in begun]
        for group, cursors in zip(self._readers, state["files"], strict=True):
            for reader, cursor in zip(group, cursors, strict=True):
                reader.restore(FileCursor.of(cursor))
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
                labels = [source] * self.context if self._numbered else row.labels
                return row._replace(labels=labels or [math.nan] * self.context)
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
            begun = self._begun[source]
            row = begun.followed_by(readers[index].take(self.context - len(begun.ids)))
            if len(row.ids) == self.context:
                self._begun[source] = _NOTHING
                return row
            self._begun[source] = row
            self._ended.add(key)
        return None
