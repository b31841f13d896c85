"""Rule programs written out as one Python function, for a few rows on the host: a decoding step.

There a tensor operation costs more than a rule: each stratum takes five of them, and a body here is
a few look-ups in a list. Between a model's layers nothing of a program is left in the processor's
caches, so it is code without loops, read once from end to end, and no table of rules. Reading facts
back is free on the CPU; on another device it would make the host wait, so there tensors do the
work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Bool
from torch import Tensor

from saesteer.rules.levels import Level


@final
@dataclass(frozen=True, eq=False)
class PlainProgram:
    """A program over `n` columns.

    `settle` makes everything true in a row of `n` that follows from what is; `work` is how many
    bodies it looks at.
    """

    n: int
    work: int
    settle: Callable[[list[bool]], None]

    @staticmethod
    def of(levels: Sequence[Level], n: int) -> PlainProgram:
        """Write out the levels over `n` columns."""
        work = sum(len(level.bodies) * level.passes for level in levels)
        return PlainProgram(n, work, _function(levels))

    def run(self, facts: Bool[Tensor, "rows given"]) -> Bool[Tensor, "rows n"]:
        """The facts, of the first columns, and everything that follows from them, row by row."""
        return as_flags(self.close(facts.tolist()), self.n)

    def close(self, facts: Sequence[list[bool]]) -> list[list[bool]]:
        """The same of rows that are lists."""
        closed: list[list[bool]] = []
        for row in facts:
            held = row + [False] * (self.n - len(row))
            self.settle(held)
            closed.append(held)
        return closed


def as_flags(rows: Sequence[list[bool]], n: int) -> Bool[Tensor, "rows n"]:
    """Rows of `n` or fewer columns as a tensor; those that are missing are False."""
    return torch.tensor([row + [False] * (n - len(row)) for row in rows]).bool().view(len(rows), n)


def _function(levels: Sequence[Level]) -> Callable[[list[bool]], None]:
    """The bodies in order, those of a stratum as often as it may take to settle.

    Nothing of the rules' text is in the code: columns are numbers.
    """
    lines = ["def settle(held):", "    pass"]
    for level in levels:
        pairs = zip(level.heads, level.bodies, strict=True)
        lines += [_statement(head, body) for head, body in pairs] * level.passes
    made: dict[str, Any] = {"__builtins__": {}}
    exec("\n".join(lines), made)
    return made["settle"]


def _statement(head: int, body: Sequence[tuple[int, bool]]) -> str:
    """`if held[3] and not held[7]: held[20] = True`."""
    literals = [f"{'not ' * negated}held[{column:d}]" for column, negated in body]
    return f"    if {' and '.join(literals) or True}: held[{head:d}] = True"
