"""What waits for the prompt's end, because it rests on a concept that is taken over the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from saesteer.rules.grounded import reads_strength
from saesteer.rules.open_world import completion_rules, given_as
from saesteer.rules.stratify import downstream, schema_of
from saesteer.rules.terms import STRENGTH, Atom, Program, Term


@final
@dataclass(frozen=True)
class Waiting:
    """The atoms that wait; in a program with variables, their predicates."""

    atoms: frozenset[Atom]
    by_schema: bool

    @staticmethod
    def of(program: Program, concepts: Sequence[str]) -> Waiting:
        """What rests on these concepts, through `not` or without, or on their strengths."""
        by_schema = not program.is_ground
        sources = [Atom.parse(name) for name in concepts]
        if program.open:
            sources += [given_as(program, atom) for atom in sources]
            program = completion_rules(program)
        if by_schema:
            sources = [atom.schema for atom in sources]
            program, written = schema_of(program), program
            if any(reads_strength(written, name) for name in concepts):
                sources.append(Atom(STRENGTH, args=(Term("_"),) * 2))
        return Waiting(downstream(program, sources), by_schema)

    def has(self, atom: Atom) -> bool:
        """Whether this atom waits."""
        return (atom.schema if self.by_schema else atom) in self.atoms
