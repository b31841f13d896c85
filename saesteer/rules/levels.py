"""A program as levels of bodies over numbered columns, which is what both tensor forms start from.

Heads with many bodies and bodies with many literals are split over columns of their own, so that
no level is padded to its widest rule and work grows with the number of literals, not faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from saesteer.rules.stratify import stratify
from saesteer.rules.syntax import Atom, Literal, Program, Rule

MAX_BODIES = 16
MAX_LITERALS = 8


class Level(NamedTuple):
    """Bodies evaluated together: `heads[i]` is the column that `bodies[i]` supports.

    A body is a tuple of (column, negated); `passes` bounds the fixpoint.
    """

    heads: tuple[int, ...]
    bodies: tuple[tuple[tuple[int, bool], ...], ...]
    passes: int


def levels_of(program: Program, columns: dict[Atom, int]) -> tuple[Level, ...]:
    """The levels of a program, first to last; `columns` gains one for each split.

    Raises:
        RuleError: a cycle through negation.
    """
    stratify(program)  # refusals must name the rules as they were written
    narrow = Program(tuple(_narrow(program)), program.source)
    for atom in narrow.atoms:
        columns.setdefault(atom, len(columns))
    return tuple(
        Level(
            tuple(columns[rule.head] for rule in stratum.rules if rule.head is not None),
            tuple(_numbered(rule.body, columns) for rule in stratum.rules),
            stratum.passes,
        )
        for stratum in stratify(narrow)
    )


def _numbered(
    body: tuple[Literal, ...], columns: Mapping[Atom, int]
) -> tuple[tuple[int, bool], ...]:
    return tuple((columns[literal.atom], literal.negated) for literal in body)


def _narrow(program: Program) -> Iterator[Rule]:
    """Equivalent rules of at most MAX_LITERALS literals, MAX_BODIES a head."""
    bodies: dict[Atom, list[Rule]] = {}
    for rule in program.rules:
        if rule.head is not None:
            bodies.setdefault(rule.head, []).append(rule)
    parts = _Parts()
    for head, rules in bodies.items():
        for rule in parts.fewer(head, rules):
            yield from parts.shorter(rule)


class _Parts:
    """New atoms for the splits; `#` can't occur in a name that somebody wrote."""

    def __init__(self) -> None:
        self._n = 0

    def fewer(self, head: Atom, rules: list[Rule]) -> Iterator[Rule]:
        """At most MAX_BODIES rules of `head`, and those of its parts."""
        while len(rules) > MAX_BODIES:
            groups = [rules[i : i + MAX_BODIES] for i in range(0, len(rules), MAX_BODIES)]
            rules = []
            for group in groups:
                part = self._new()
                yield from (replace(rule, head=part) for rule in group)
                rules.append(Rule(head, (Literal(part),), group[0].line))
        yield from rules

    def shorter(self, rule: Rule) -> Iterator[Rule]:
        """`rule` with at most MAX_LITERALS literals, and the rules of its parts."""
        body = rule.body
        while len(body) > MAX_LITERALS:
            groups = [body[i : i + MAX_LITERALS] for i in range(0, len(body), MAX_LITERALS)]
            body = ()
            for group in groups:
                part = self._new()
                yield Rule(part, group, rule.line)
                body = (*body, Literal(part))
        yield replace(rule, body=body)

    def _new(self) -> Atom:
        self._n += 1
        return Atom(f"#{self._n}")
