"""Rules as a boolean tensor program over [batch, pos, atoms].

Everything that depends on the rules alone is settled here: columns, signs and the number of passes.
Running touches no row but its own and makes the host wait for no device, so it can sit inside a
forward pass, and a new token costs that token alone.

There are three forms, and the amount of work decides between them, measured on two CPU cores: plain
Python for a few rules on the rows of a decoding step, on the CPU alone (20 rules in six strata on
one row: 7 µs against 36); matrix products for a few more; words of 64 rows for everything else
(1,000 rules over 256 concepts on 64 rows in 0.2 ms; 4,096 rows in 2 ms). A gather of booleans was
slower than one of the three everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, final

import torch
from jaxtyping import Bool
from torch import Tensor

from saesteer.errors import RuleError
from saesteer.rules.dense import DenseProgram
from saesteer.rules.levels import levels_of
from saesteer.rules.plain import PlainProgram
from saesteer.rules.sliced import SlicedProgram
from saesteer.rules.syntax import Atom, Program, Rule

DENSE_WORK = 2**19
"""Rows x rules x columns up to which matrix products are faster."""

PLAIN_WORK = 2**8
"""Rows x bodies up to which plain Python is faster in a decoding step. Repeated in a loop, with
warm caches, 20 rules tie with matrix products at 8 rows; between a model's layers later."""

Atoms = Bool[Tensor, "batch pos n_atoms"]


class Settled(NamedTuple):
    """What follows at each position: atoms and violated constraints."""

    atoms: Atoms
    alarms: Bool[Tensor, "batch pos n_constraints"]


@final
@dataclass(frozen=True, eq=False)
class BooleanProgram:
    """A compiled program; `atoms` names the columns it reads and writes, `watched` the alarms'.

    `work` is rules x columns of one row; `dense` and `plain` are left out where they could never
    pay.
    """

    atoms: tuple[str, ...]
    watched: tuple[Rule, ...]
    n_columns: int
    work: int
    sliced: SlicedProgram
    dense: DenseProgram | None
    plain: PlainProgram | None

    def run(self, mask: Atoms) -> Atoms:
        """Every atom that follows: the least model above the facts, at each position by itself.

        Args:
            mask: True where an atom is given as a fact.

        Raises:
            RuleError: another number of columns than `atoms`.
        """
        return self.settle(mask).atoms

    def alarms(self, closed: Atoms) -> Bool[Tensor, "batch pos n_constraints"]:
        """Where each constraint is violated, given what `run` returned."""
        return self.settle(closed).alarms

    def settle(self, mask: Atoms, scores: Tensor | None = None) -> Settled:
        """What `run` and `alarms` return, at the cost of one; errors as for `run`.

        Args:
            scores: ignored, since propositions have no strength.
        """
        del scores
        batch, pos, n_given = mask.shape
        n, m = len(self.atoms), len(self.watched)
        if n_given != n:
            raise RuleError(
                f"a mask with {n_given} columns for a program of {n} atoms; give one column for "
                "each name in `.atoms`."
            )
        closed = self._close(mask.reshape(batch * pos, n)).view(batch, pos, self.n_columns)
        return Settled(closed.narrow(-1, 0, n), closed.narrow(-1, n, m))

    def _close(self, given: Bool[Tensor, "rows n_atoms"]) -> Bool[Tensor, "rows n_columns"]:
        """The facts and what follows, in the form that is fastest for so many rows there."""
        n_rows, dense = len(given), self.dense
        if (plain := self.on_host(given, n_rows)) is not None:
            return plain.run(given)
        if dense is None or n_rows * self.work > DENSE_WORK:
            return self.sliced.run(given)
        facts = given.new_zeros(n_rows, self.n_columns)
        facts[:, : given.shape[1]] = given
        return dense.run(facts)

    def on_host(self, given: Tensor, n_rows: int) -> PlainProgram | None:
        """The program in plain Python, where it is the fastest form for so many rows of these."""
        plain = self.plain
        small = plain is not None and given.is_cpu and n_rows * plain.work <= PLAIN_WORK
        return plain if small else None

    def to(self, device: torch.device | str) -> BooleanProgram:
        """The same program on another device."""
        dense = None if self.dense is None else self.dense.to(device)
        return replace(self, sliced=self.sliced.to(device), dense=dense)


def compile_program(program: Program, atoms: Sequence[Atom] = ()) -> BooleanProgram:
    """Compile a program over `atoms`, in that order, and then whatever else it uses.

    Raises:
        RuleError: a cycle through negation.
    """
    columns = {atom: i for i, atom in enumerate(dict.fromkeys([*atoms, *program.atoms]))}
    names, watched = tuple(map(str, columns)), program.constraints(columns)
    heads = [Atom(f"#alarm{i}") for i in range(len(watched))]
    alarms = [replace(rule, head=head) for rule, head in zip(watched, heads, strict=True)]
    columns.update({head: len(names) + i for i, head in enumerate(heads)})
    levels = levels_of(Program((*program.rules, *alarms), program.source), columns)
    work = len(columns) * sum(len(level.bodies) for level in levels)
    steps = sum(len(level.bodies) * level.passes for level in levels)
    return BooleanProgram(
        atoms=names,
        watched=watched,
        n_columns=len(columns),
        work=work,
        sliced=SlicedProgram.of(levels, len(columns)),
        dense=DenseProgram.of(levels, len(columns)) if work <= DENSE_WORK else None,
        plain=PlainProgram.of(levels, len(columns)) if steps <= PLAIN_WORK else None,
    )
