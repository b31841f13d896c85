"""Rule programs on whole numbers, for a few rows on the host: a decoding step, mostly.

There a tensor operation costs more than a rule: each stratum takes five of them, and a body here
is two comparisons of integers whose bits are the atoms. Reading facts back is free on the CPU; on
another device it would make the host wait, so there tensors do the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool
from torch import Tensor

from saesteer.rules.levels import Level

Body = tuple[int, int, int]
"""Bits of the head, of what must hold and of what must not."""


@final
@dataclass(frozen=True, eq=False)
class PlainProgram:
    """A program over `n` columns: the bodies of each stratum, and in how many rounds it settles.

    `work` is how many bodies one row may have to look at.
    """

    n: int
    levels: tuple[tuple[tuple[Body, ...], int], ...]
    work: int

    @staticmethod
    def of(levels: Sequence[Level], n: int) -> PlainProgram:
        """Write the levels over `n` columns as bits."""
        bodies = tuple((_bodies(level), level.passes) for level in levels)
        return PlainProgram(n, bodies, sum(len(found) * rounds for found, rounds in bodies))

    def run(self, facts: Bool[Tensor, "rows given"]) -> Bool[Tensor, "rows n"]:
        """The facts, of the first columns, and everything that follows from them, row by row."""
        return as_flags(self.close(as_numbers(facts)), self.n)

    def close(self, facts: Sequence[int]) -> list[int]:
        """The same with each row as a number whose bits are the columns."""
        closed: list[int] = []
        for held in facts:
            for bodies, rounds in self.levels:
                for _ in range(rounds):
                    before = held
                    for head, needs, bars in bodies:
                        if held & needs == needs and not held & bars:
                            held |= head
                    if held == before:
                        break
            closed.append(held)
        return closed


def above(rows: Sequence[Sequence[float]], floors: Sequence[tuple[int, float]]) -> list[int]:
    """Which columns exceed their floors, as for `as_numbers`; NaN exceeds nothing.

    Args:
        floors: each column's bit and its floor, which the dtype of the scores holds exactly.
    """
    return [
        sum([bit for (bit, floor), score in zip(floors, row, strict=True) if score > floor])
        for row in rows
    ]


def as_numbers(rows: Bool[Tensor, "rows n"]) -> list[int]:
    """Each row as a number whose bits are its columns; the host reads the tensor."""
    return [sum(1 << i for i, holds in enumerate(row) if holds) for row in rows.tolist()]


def as_flags(numbers: Sequence[int], n: int) -> Bool[Tensor, "rows n"]:
    """The rows back, of `n` columns."""
    bits = [[number >> i & 1 for i in range(n)] for number in numbers]
    return torch.tensor(bits, dtype=torch.bool).view(len(numbers), n)


def _bodies(level: Level) -> tuple[Body, ...]:
    found: list[Body] = []
    for head, body in zip(level.heads, level.bodies, strict=True):
        needs = sum(1 << column for column in {c for c, negated in body if not negated})
        bars = sum(1 << column for column in {c for c, negated in body if negated})
        found.append((1 << head, needs, bars))
    return tuple(found)
