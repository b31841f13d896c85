"""A program with open atoms over [batch, pos, atoms]: tensors for the bounds, clingo for the knots.

It stands where `BooleanProgram` does. Certain and possible atoms are columns of one tensor program.
A host is asked only where an atom that cases could decide is unknown, once for each set of facts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, final

import torch
from jaxtyping import Bool
from torch import Tensor

from saesteer.rules.compile import Atoms, BooleanProgram, Settled, compile_program
from saesteer.rules.grounded import CACHE_SIZE, GroundedProgram, compile_any
from saesteer.rules.open_world import doubled, knots, look_at_completions, maybe
from saesteer.rules.terms import Atom, Program, Rule


class Judged(NamedTuple):
    """What follows at each position, and which atoms are unknown; None where none can be."""

    atoms: Atoms
    alarms: Bool[Tensor, "batch pos n_constraints"]
    unknown: Atoms | None


@final
@dataclass(frozen=True, eq=False)
class OpenProgram:
    """`atoms` and `watched` as `BooleanProgram` has them; `bounds` has a column more for each atom.

    `tied` are the columns of knots.
    """

    program: Program
    atoms: tuple[str, ...]
    watched: tuple[Rule, ...]
    bounds: BooleanProgram
    tied: tuple[int, ...]
    answers: OrderedDict[tuple[bool, ...], list[list[bool]]] = field(
        default_factory=OrderedDict, repr=False
    )

    @staticmethod
    def of(program: Program, concepts: Sequence[Atom]) -> OpenProgram:
        """Compile a program whose open atoms `check_open` has let through; concepts come first."""
        atoms = tuple(dict.fromkeys([*concepts, *program.atoms]))
        watched = program.constraints(atoms)
        both = doubled(replace(program, statements=(*program.rules, *watched)))
        bounds = compile_program(both, [*atoms, *(maybe(atom) for atom in atoms)])
        tied = knots(program)
        columns = tuple(i for i, atom in enumerate(atoms) if atom in tied)
        return OpenProgram(program, tuple(map(str, atoms)), watched, bounds, columns)

    def run(self, mask: Atoms) -> Atoms:
        """Every atom that is certain, as `BooleanProgram.run`."""
        return self.judge(mask).atoms

    def alarms(self, closed: Atoms) -> Bool[Tensor, "batch pos n_constraints"]:
        """Where each constraint is surely violated, given what `run` returned."""
        return self.judge(closed).alarms

    def settle(self, mask: Atoms, scores: Tensor | None = None) -> Settled:
        """What is certain, at each position."""
        del scores
        return Settled(*self.judge(mask)[:2])

    def judge(self, mask: Atoms) -> Judged:
        """What is certain at each position, and what unknown."""
        n = len(self.atoms)
        found, alarms = self.bounds.settle(torch.cat([mask, torch.zeros_like(mask)], -1))
        true, alarms = found[..., :n], alarms[..., : len(self.watched)]
        unknown = found[..., n : 2 * n] & ~true
        if self.tied:
            open_at = unknown[..., list(self.tied)].any(-1)
            at = open_at.nonzero().tolist()
            answers = [self._answer(tuple(mask[row, pos].tolist())) for row, pos in at]
            if answers:
                true, unknown, alarms = (
                    part.masked_scatter(open_at[..., None], _stack(answers, i, part))
                    for i, part in enumerate((true, unknown, alarms))
                )
        return Judged(true, alarms, unknown)

    def to(self, device: torch.device | str) -> OpenProgram:
        """The same program on another device."""
        return replace(self, bounds=self.bounds.to(device))

    def _answer(self, given: tuple[bool, ...]) -> list[list[bool]]:
        """True, unknown and violated columns, by all completions."""
        if given not in self.answers:
            named = list(map(Atom.parse, self.atoms))
            facts = [atom for atom, fact in zip(named, given, strict=True) if fact]
            found = look_at_completions(self.program, facts)
            true, unknown = ([a in held for a in named] for held in (found.true, found.unknown))
            self.answers[given] = [true, unknown, [found.violates(r) for r in self.watched]]
            if len(self.answers) > CACHE_SIZE:
                self.answers.popitem(last=False)
        self.answers.move_to_end(given)
        return self.answers[given]


def compile_open(
    program: Program, concepts: Sequence[Atom] = ()
) -> BooleanProgram | GroundedProgram | OpenProgram:
    """The program in the form that its rules need.

    Raises:
        RuleError: a cycle through negation, or a grounding that could get too large.
    """
    return OpenProgram.of(program, concepts) if program.open else compile_any(program, concepts)


def judge_any(
    logic: BooleanProgram | GroundedProgram | OpenProgram, facts: Atoms, scores: Tensor
) -> Judged:
    """What a program of any form concludes; errors as for its `settle`."""
    if isinstance(logic, OpenProgram):
        return logic.judge(facts)
    return Judged(*logic.settle(facts, scores), None)


def _stack(answers: list[list[list[bool]]], part: int, like: Tensor) -> Tensor:
    return torch.tensor([a[part] for a in answers], dtype=torch.bool).to(like.device)
