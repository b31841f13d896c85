"""Open atoms about entities: rules with variables spelled out, so that all is of propositions.

An open p(X) is one open proposition for each entity that can stand there: those that facts,
concepts and rules put into that place, and whatever the other atoms of a rule let X be. With
`suspect(X) :- person(X), not alibi(X).` and alibi open, everybody's alibi is unknown until it is
read or denied. Two atoms that are both open and share X range over each other's entities.

Rules are then what clingo's grounding would leave of them, and mean what `open_world` says. Atoms
under `not` that nothing derives are kept: a fact may still give them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from saesteer.errors import RuleError
from saesteer.rules.ground import (
    Domains,
    check_size,
    domains_of,
    equalities,
    name_anything,
    solve,
    supported,
)
from saesteer.rules.grounded import relaxed
from saesteer.rules.open_world import both_sides
from saesteer.rules.terms import Atom, Program, Rule, Term, contrary

OPEN_LIMIT = 5_000
"""Instances of rules, and of open atoms, that one program may have."""


def spell_out(program: Program, given: Iterable[Atom]) -> Program:
    """The same program over propositions; itself where it has no open atoms or no variables.

    Args:
        given: whatever may be a fact.

    Raises:
        RuleError: more than OPEN_LIMIT instances of rules or of open atoms.
    """
    if not program.open or program.is_ground:
        return program
    program, facts = name_anything(program), set(given)
    while True:
        places = _places(program, facts)
        opened = _instances(program, places)
        check_size(program, facts, OPEN_LIMIT, places)
        sides = {side for atom in opened for side in (atom, contrary(atom))}
        possible = solve(relaxed(program), facts | sides)
        found = supported(program.statements, possible)
        rules = dict.fromkeys(replace(rule, tests=()) for rule in found)
        absent = {b.atom for rule in rules for b in rule.body if b.nots} - possible
        if not absent:
            return Program(tuple(rules), program.source, opened)
        facts |= absent


def _instances(program: Program, places: Domains) -> tuple[Atom, ...]:
    """Every open proposition."""
    found: dict[Atom, None] = {}
    for atom in program.open:
        if atom.is_ground:
            found[atom] = None
            continue
        ranges = [sorted(place) for place in places[atom.schema]]
        n = math.prod(map(len, ranges))
        if n > OPEN_LIMIT:
            raise RuleError(
                f"{program.source}: open: {atom} stands for {n:,} propositions, and at most "
                f"{OPEN_LIMIT:,} may be open. Open a relation over fewer entities."
            )
        found |= dict.fromkeys(Atom(atom.name, args=args) for args in itertools.product(*ranges))
    return tuple(found)


def _places(program: Program, facts: Iterable[Atom]) -> Domains:
    """`domains_of`, widened by what the rest of a rule lets an open atom be about."""
    sides = {side.schema for side in both_sides(program)}
    places, grew = dict(domains_of(program, facts)), True
    for side in sides:
        places[contrary(side)] = places[side]  # what is said of an entity can be denied of it
    for atom in facts:
        for place, term in zip(places[atom.schema], atom.args, strict=True):
            place.add(term)
    while grew:
        grew = False
        for rule in program.statements:
            for place, terms in _spread(rule, places, sides):
                grew |= not terms <= place
                place |= terms
    return places


def _spread(
    rule: Rule, places: Domains, sides: Collection[Atom]
) -> Iterator[tuple[set[Term], set[Term]]]:
    """The places of a rule's head and open atoms, with the entities that the rule puts there."""
    closed: dict[Term, set[Term]] = {}
    opened: dict[Term, set[Term]] = {}
    for atom in (b.atom for b in rule.body if not b.nots):
        for term, place in zip(atom.args, places[atom.schema], strict=True):
            if atom.schema in sides:
                opened[term] = opened.get(term, set()) | place
            else:
                closed[term] = closed.get(term, place) & place
    ranges, same = opened | closed, equalities(rule, {})
    atoms = [b.atom for b in rule.body if b.atom.schema in sides]
    for atom in atoms if rule.head is None else (rule.head, *atoms):
        for term, place in zip(atom.args, places[atom.schema], strict=True):
            bound = same.get(term, term)
            yield place, ranges.get(bound, set()) if bound.is_variable else {bound}
