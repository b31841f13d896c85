"""`SlicedProgram.run` on the host, by numpy.

A program of 1,000 rules is some 35 operations on a few kilobytes, so that calls are what it costs,
and numpy's cost a fifth of torch's: 0.24 ms instead of 0.52 on two AMD cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from saesteer.rules.sliced import SlicedLevel, SlicedProgram

WORD = 64
ONES = 0x0101010101010101
"""The lowest bit of each of eight bytes."""
Flags = NDArray[np.bool_]
Words = NDArray[np.int64]


@final
@dataclass(frozen=True, eq=False)
class HostProgram:
    """The numbers of a `SlicedProgram` as arrays; memory is shared with its tensors."""

    program: SlicedProgram

    def run(self, facts: Flags) -> Flags:
        """The facts, of the first columns, and everything that follows from them, row by row."""
        n, (columns, rows_of, literals) = self.program.n, self._numbers
        words = _pack(facts, len(rows_of)).take(columns, 0)
        true = np.full((1, words.shape[1]), -1)
        rows = np.concatenate([words, true, ~words, ~true])
        complements = rows[n + 1 :]
        for level, own in zip(self.program.levels, literals, strict=True):
            for _ in range(level.passes):
                _step(level, own, rows, complements)
        return _unpack(rows.take(rows_of, 0))[: len(facts), :n]

    @cached_property
    def _numbers(self) -> tuple[Any, Any, Sequence[Any]]:
        program = self.program
        literals = [level.literals.numpy() for level in program.levels]
        return program.columns.numpy(), program.rows.numpy(), literals


def _step(level: SlicedLevel, literals: Any, rows: Words, complements: Words) -> None:
    """As `SlicedLevel.step`."""
    held, width = rows.take(literals, 0), level.width
    while width > 1:
        width //= 2
        half = len(held) // 2
        held = held[:half] & held[half:]
    first, start = held[: level.rounds[0]], level.rounds[0]
    for n in level.rounds[1:]:
        first[:n] |= held[start : start + n]
        start += n
    known = rows[level.heads]
    known |= first
    np.invert(known, out=complements[level.heads])


def _pack(facts: Flags, n: int) -> Words:
    """As `sliced.pack`, of `n` columns, a multiple of eight."""
    n_rows, given = facts.shape
    n_words = max(1, -(-n_rows // WORD))
    flags = np.zeros((n_words * WORD, n), dtype=np.bool_)
    flags[:n_rows, :given] = facts
    x = flags.view(np.int64).reshape(n_words * 8, 8, -1)
    x = x[:, :4] | (x[:, 4:] << 4)
    x = x[:, :2] | (x[:, 2:] << 2)
    x = x[:, 0] | (x[:, 1] << 1)
    packed = x.view(np.uint8).reshape(n_words, 8, -1).transpose(2, 0, 1).reshape(-1)
    return packed.view(np.int64).reshape(-1, n_words)


def _unpack(words: Words) -> Flags:
    """As `sliced.unpack`."""
    n, n_words = words.shape
    packed = np.ascontiguousarray(words.view(np.uint8).reshape(n, n_words, 8).transpose(1, 2, 0))
    eights = packed.view(np.int64).reshape(n_words * 8, 1, -1)
    return ((eights >> _BITS) & ONES).view(np.bool_).reshape(n_words * WORD, n)


_BITS = np.arange(8)[:, None]
