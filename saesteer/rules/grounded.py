"""Rules with variables as a program over [batch, pos, atoms], solved by clingo where facts differ.

It stands where `BooleanProgram` does and means the same. Positions with equal facts (concepts that
hold, and strengths that some rule reads) are solved once, and answers are kept, so a text whose
facts no longer change costs nothing more. Facts are read back from the device to be solved.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.rules.compile import Atoms, BooleanProgram, Settled, compile_program
from saesteer.rules.ground import check_size, solve
from saesteer.rules.stratify import stratify
from saesteer.rules.terms import MAX_INTEGER, STRENGTH, Atom, Program, Rule, Term, is_strength

CACHE_SIZE = 4096
UNREAD = -MAX_INTEGER - 1
"""Stands for the strength of what was never read; no fact is made of it."""


@final
@dataclass(frozen=True, eq=False)
class GroundedProgram:
    """A program with variables; `atoms` are the concepts, then every instance known beforehand.

    An instance with a number from a strength in its head has no column; proofs still show it.
    `strengths` are the concepts' columns whose strengths are facts. `answers` caches by facts.
    """

    program: Program
    atoms: tuple[str, ...]
    watched: tuple[Rule, ...]
    strengths: tuple[int, ...]
    answers: OrderedDict[tuple[int, ...], list[bool]] = field(
        default_factory=OrderedDict, repr=False
    )

    def run(self, mask: Atoms) -> Atoms:
        """Every atom that follows, as `BooleanProgram.run`; no concept has a strength."""
        return self.settle(mask).atoms

    def alarms(self, closed: Atoms) -> Tensor:
        """Where each constraint is violated, given what `run` returned."""
        return self.settle(closed).alarms

    def settle(
        self, mask: Atoms, scores: Float[Tensor, "batch pos n_concepts"] | None = None
    ) -> Settled:
        """What follows at each position, each distinct set of facts solved once.

        Raises:
            RuleError: facts whose grounding could get too large.
        """
        batch, pos, n = mask.shape
        facts = torch.cat([mask.long(), self._thousandths(mask, scores)], -1)
        rows = map(tuple, facts.view(batch * pos, -1).tolist())
        width = n + len(self.watched)
        found = torch.tensor([self._answer(row) for row in rows], dtype=torch.bool)
        found = found.to(mask.device).view(batch, pos, width)
        return Settled(found[..., :n], found[..., n:])

    def to(self, device: torch.device | str) -> GroundedProgram:
        """Itself: clingo runs on the host, whatever the device."""
        del device
        return self

    def _thousandths(self, mask: Tensor, scores: Tensor | None) -> Tensor:
        shape = (*mask.shape[:2], len(self.strengths))
        if scores is None or not self.strengths:
            return mask.new_full(shape, UNREAD, dtype=torch.long)
        return thousandths(scores[..., list(self.strengths)])

    def _answer(self, key: tuple[int, ...]) -> list[bool]:
        if key in self.answers:
            self.answers.move_to_end(key)
            return self.answers[key]
        n = len(self.atoms)
        facts = [Atom.parse(a) for a, given in zip(self.atoms, key[:n], strict=True) if given]
        names = (self.atoms[i] for i in self.strengths)
        facts += strength_facts(dict(zip(names, key[n:], strict=True)))
        true = solve(_watching(self.program, self.watched), facts)
        held = set(map(str, true))
        alarms = [str(_alarm(i)) in held for i in range(len(self.watched))]
        self.answers[key] = [atom in held for atom in self.atoms] + alarms
        if len(self.answers) > CACHE_SIZE:
            self.answers.popitem(last=False)
        return self.answers[key]


def compile_any(
    program: Program, concepts: Sequence[Atom] = ()
) -> BooleanProgram | GroundedProgram:
    """The tensor program where rules are over propositions alone, clingo's otherwise.

    Raises:
        RuleError: a cycle through negation, or a grounding that could get too large.
    """
    if program.is_ground:
        return compile_program(program, concepts)
    stratify(program)
    read = [i for i, concept in enumerate(concepts) if reads_strength(program, concept.name)]
    facts = [*concepts, *strength_facts({concepts[i].name: i for i in read})]
    check_size(program, facts)
    columns = dict.fromkeys([*concepts, *(a for a in program.atoms if a.is_ground)])
    columns |= dict.fromkeys(sorted(solve(relaxed(program), concepts)))
    atoms = tuple(str(atom) for atom in columns if not is_strength(atom))
    return GroundedProgram(program, atoms, program.constraints(concepts), tuple(read))


def thousandths(scores: Tensor) -> Tensor:
    """Scores as whole thousandths, rounded; `UNREAD` where nothing was read."""
    whole = (scores.double() * 1000).round().clamp(-MAX_INTEGER, MAX_INTEGER).nan_to_num()
    return torch.where(scores.isfinite(), whole.long(), UNREAD)


def strength_facts(strengths: dict[str, int]) -> list[Atom]:
    """`strength(pain, 2700)` for every concept that was read."""
    return [
        Atom(STRENGTH, args=(Term(name), Term(str(value))))
        for name, value in strengths.items()
        if value != UNREAD
    ]


def reads_strength(program: Program, concept: str) -> bool:
    """Whether some rule reads how strong a concept is."""
    atoms = [b.atom for s in program.statements for b in s.body if is_strength(b.atom)]
    return any(a.args[0].is_variable or a.args[0] == Term(concept) for a in atoms)


def relaxed(program: Program) -> Program:
    """The rules without `not`, strengths and orders: what could hold at best."""
    rules = []
    for rule in program.rules:
        body = tuple(b for b in rule.body if not b.nots and not is_strength(b.atom))
        bound = {v for b in body for v in b.atom.variables}
        tests = tuple(t for t in rule.tests if t.sign == "=" and bound & {t.left, t.right})
        bound |= {side for t in tests for side in (t.left, t.right)}
        if rule.head is not None and set(rule.head.variables) <= bound:
            rules.append(replace(rule, body=body, tests=tests))
    return Program(tuple(rules), program.source)


def _watching(program: Program, watched: tuple[Rule, ...]) -> Program:
    alarms = (replace(rule, head=_alarm(i)) for i, rule in enumerate(watched))
    return Program((*program.rules, *alarms), program.source)


def _alarm(i: int) -> Atom:
    return Atom(f"__alarm__{i}")
