"""Small rule programs as two matrix products a stratum: few operations, many more multiplications.

A body's column of `bodies` holds +1 at each atom that must hold and -1 at each that must not; it
holds where the product with the facts reaches the number of the former. All sums are small whole
numbers, so they are exact in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saesteer.rules.levels import Level


@final
@dataclass(frozen=True, eq=False)
class DenseLevel:
    """One stratum: `bodies` [n, n_rules], how much each of them needs, `heads` [n_rules, n]."""

    bodies: Float[Tensor, "n n_rules"]
    needs: Float[Tensor, " n_rules"]
    heads: Float[Tensor, "n_rules n"]
    passes: int


@final
@dataclass(frozen=True, eq=False)
class DenseProgram:
    """A program over `n` columns."""

    n: int
    levels: tuple[DenseLevel, ...]

    @staticmethod
    def of(levels: Sequence[Level], n: int) -> DenseProgram:
        """Lay the levels out over `n` columns."""
        return DenseProgram(n, tuple(_dense(level, n) for level in levels))

    def run(self, facts: Bool[Tensor, "rows n"]) -> Bool[Tensor, "rows n"]:
        """The facts and everything that follows from them, row by row."""
        held = facts.float()
        for level in self.levels:
            for _ in range(level.passes):
                met = (held @ level.bodies > level.needs).float()
                held = torch.addmm(held, met, level.heads).clamp_(max=1.0)
        return held > 0

    def to(self, device: torch.device | str) -> DenseProgram:
        """The same program on another device."""
        names = ("bodies", "needs", "heads")
        moved = (
            replace(level, **{name: getattr(level, name).to(device) for name in names})
            for level in self.levels
        )
        return replace(self, levels=tuple(moved))


def _dense(level: Level, n: int) -> DenseLevel:
    bodies, heads = torch.zeros(n, len(level.bodies)), torch.zeros(len(level.bodies), n)
    needs = torch.zeros(len(level.bodies))
    for i, (head, body) in enumerate(zip(level.heads, level.bodies, strict=True)):
        heads[i, head] = 1.0
        for column, negated in set(body):
            bodies[column, i] += -1.0 if negated else 1.0
            needs[i] += 0.0 if negated else 1.0
    return DenseLevel(bodies, needs - 0.5, heads, level.passes)
