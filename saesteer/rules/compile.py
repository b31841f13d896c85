"""Rules as a boolean tensor program over [batch, pos, atoms].

Everything that depends on the rules alone is settled here: column indices, signs and the number of
passes. Running reads no value back from the device, branches on no tensor and touches no row but
its own, so it can sit inside a forward pass. Atoms are the leading axis while it runs: a gather
then copies whole contiguous rows, one per literal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saesteer.rules.stratify import Stratum, stratify
from saesteer.rules.syntax import Atom, Literal, Program, Rule

Atoms = Bool[Tensor, "batch pos n_atoms"]


@final
@dataclass(frozen=True, eq=False)
class Clauses:
    """Bodies of some rules, padded to equal length with the row that is always true.

    `column` [n_rules, width] and `flip` [n_rules, width, 1] address and negate the literals.
    `owner` [n_rules] counts into `heads` [n_heads], the rows that the bodies support.
    """

    column: Int[Tensor, "n_rules width"]
    flip: Bool[Tensor, "n_rules width 1"]
    owner: Int[Tensor, " n_rules"]
    heads: Int[Tensor, " n_heads"]
    passes: int = 1

    def hold(self, rows: Bool[Tensor, "n_rows n"]) -> Bool[Tensor, "n_heads n"]:
        """Where at least one body of each head holds."""
        bodies = (rows[self.column] ^ self.flip).all(1)
        support = torch.zeros(len(self.heads), rows.shape[1], dtype=torch.int32, device=rows.device)
        return support.index_add_(0, self.owner, bodies.to(torch.int32)) > 0

    def to(self, device: torch.device | str) -> Clauses:
        """The same clauses on another device."""
        names = ("column", "flip", "owner", "heads")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@final
@dataclass(frozen=True, eq=False)
class BooleanProgram:
    """A compiled program; `atoms` names the columns it reads and writes, `watched` the alarms'."""

    atoms: tuple[str, ...]
    strata: tuple[Clauses, ...]
    constraints: Clauses | None
    watched: tuple[Rule, ...] = ()

    def run(self, mask: Atoms) -> Atoms:
        """Every atom that follows: the least model above the facts, at each position by itself.

        Args:
            mask: True where an atom is given as a fact.
        """
        batch, pos, n_atoms = mask.shape
        rows = torch.ones(n_atoms + 1, batch * pos, dtype=torch.bool, device=mask.device)
        rows[:n_atoms] = mask.reshape(-1, n_atoms).T
        for clauses in self.strata:
            for _ in range(clauses.passes):
                rows[clauses.heads] |= clauses.hold(rows)
        return rows[:n_atoms].T.reshape(batch, pos, n_atoms)

    def alarms(self, closed: Atoms) -> Bool[Tensor, "batch pos n_constraints"]:
        """Where each constraint is violated, given what `run` returned."""
        batch, pos, n_atoms = closed.shape
        if self.constraints is None:
            return closed.new_zeros(batch, pos, 0)
        rows = torch.ones(n_atoms + 1, batch * pos, dtype=torch.bool, device=closed.device)
        rows[:n_atoms] = closed.reshape(-1, n_atoms).T
        return self.constraints.hold(rows).T.reshape(batch, pos, -1)

    def to(self, device: torch.device | str) -> BooleanProgram:
        """The same program on another device."""
        moved = None if self.constraints is None else self.constraints.to(device)
        return replace(self, strata=tuple(c.to(device) for c in self.strata), constraints=moved)


def compile_program(program: Program, atoms: Sequence[Atom] = ()) -> BooleanProgram:
    """Compile a program over `atoms`, in that order, and then whatever else it uses.

    Raises:
        RuleError: a cycle through negation.
    """
    columns = {atom: i for i, atom in enumerate(dict.fromkeys([*atoms, *program.atoms]))}
    strata = tuple(_stratum(stratum, columns) for stratum in stratify(program))
    watched = program.constraints(columns)
    bodies, each = [rule.body for rule in watched], list(range(len(watched)))
    constraints = _clauses(bodies, each, each, columns, passes=1) if watched else None
    return BooleanProgram(tuple(map(str, columns)), strata, constraints, watched)


def _stratum(stratum: Stratum, columns: dict[Atom, int]) -> Clauses:
    heads: dict[int, int] = {}
    owner = [heads.setdefault(columns[_head(rule)], len(heads)) for rule in stratum.rules]
    bodies = [rule.body for rule in stratum.rules]
    return _clauses(bodies, owner, list(heads), columns, stratum.passes)


def _head(rule: Rule) -> Atom:
    assert rule.head is not None, "a stratum holds no constraints"
    return rule.head


def _clauses(
    bodies: Sequence[Sequence[Literal]],
    owner: list[int],
    heads: list[int],
    columns: dict[Atom, int],
    passes: int,
) -> Clauses:
    width = max(1, *(len(body) for body in bodies)) if bodies else 1
    true_row = len(columns)
    column = torch.full((len(bodies), width), true_row, dtype=torch.long)
    flip = torch.zeros(len(bodies), width, 1, dtype=torch.bool)
    for i, body in enumerate(bodies):
        for j, literal in enumerate(body):
            column[i, j] = columns[literal.atom]
            flip[i, j] = literal.negated
    return Clauses(column, flip, torch.tensor(owner), torch.tensor(heads), passes)
