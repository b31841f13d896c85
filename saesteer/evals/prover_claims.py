"""What ProverQA's sentences claim, what follows from them exactly, and the rules that derive it.

A claim is about one person or about everyone: a formula, or a formula under a condition. Its prime
implicates are the shortest clauses that it entails; each clause of k literals is k rules, one for
every literal that the others' opposites leave. A rule book of these derives what unit propagation
does: all that one claim entails at once, and chains of claims, but no proof by cases over several.
Every derived literal is entailed; the converse is measured on generated problems, not promised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal, final

import torch
from jaxtyping import Bool
from torch import Tensor

from saesteer.evals.logic_conclude import NO, OPEN, YES, Conclusion
from saesteer.rules import RuleBook

Op = Literal["all", "any", "one_of"]
Name = int | str
Truth = Bool[Tensor, " worlds"]
World = Mapping[Name, Truth]
MAX_NAMES = 6
"""Names in one claim, beyond which it is not taken for read: 729 clauses would be 2,187."""


@final
@dataclass(frozen=True)
class Signed:
    """A predicate, or its opposite."""

    name: Name
    positive: bool = True

    @property
    def opposite(self) -> Signed:
        """The same name, the other sign."""
        return Signed(self.name, not self.positive)

    def holds(self, world: World) -> Truth:
        """In which worlds it is true."""
        return world[self.name] if self.positive else ~world[self.name]


Clause = frozenset[Signed]


@final
@dataclass(frozen=True)
class Formula:
    """All, any, or exactly one of some literals."""

    op: Op
    parts: tuple[Signed, ...]

    def holds(self, world: World) -> Truth:
        """In which worlds it is true."""
        truths = torch.stack([part.holds(world) for part in self.parts])
        match self.op:
            case "all":
                return truths.all(0)
            case "any":
                return truths.any(0)
            case "one_of":
                return truths.sum(0) == 1


@final
@dataclass(frozen=True)
class Claim:
    """What one sentence says of a person; of everyone where there is none."""

    person: Name | None
    result: Formula
    condition: Formula | None = None

    def holds(self, world: World) -> Truth:
        """In which worlds it is true of the person."""
        result = self.result.holds(world)
        return result if self.condition is None else ~self.condition.holds(world) | result

    @property
    def names(self) -> tuple[Name, ...]:
        """The predicates that occur, each once."""
        parts = (*(self.condition.parts if self.condition else ()), *self.result.parts)
        return tuple(dict.fromkeys(part.name for part in parts))


def about(claims: Sequence[Claim], person: Name | None) -> list[Claim]:
    """The claims about one person, those about everyone among them."""
    return [claim for claim in dict.fromkeys(claims) if claim.person in (None, person)]


def entailed(claims: Sequence[Claim], asked: Claim) -> str | None:
    """Whether what is asked follows, its opposite does, or neither; None if claims contradict.

    Exact: every world over the names that occur is looked at.
    """
    known = about(claims, asked.person)
    names = tuple(dict.fromkeys(name for claim in (*known, asked) for name in claim.names))
    world = worlds(names)
    possible = torch.ones(2 ** len(names), dtype=torch.bool)
    for claim in known:
        possible &= claim.holds(world)
    if not possible.any():
        return None
    truth = asked.holds(world)[possible]
    return YES if truth.all() else OPEN if truth.any() else NO


def worlds(names: Sequence[Name]) -> World:
    """Every way in which some names can be true or false."""
    number = torch.arange(2 ** len(names))
    return {name: (number >> i & 1).bool() for i, name in enumerate(names)}


def prime_implicates(claim: Claim, *, denied: bool = False) -> list[Clause]:
    """The shortest clauses that a claim entails, or that its denial does."""
    number = {name: index for index, name in enumerate(claim.names)}
    named = list(number)
    return [
        frozenset(Signed(named[index], sign) for index, sign in clause)
        for clause in _implicates(_numbered(claim, number), denied)
    ]


@lru_cache(maxsize=4096)
def _implicates(claim: Claim, denied: bool) -> tuple[tuple[tuple[int, bool], ...], ...]:
    names = claim.names
    world = worlds(names)
    truth = claim.holds(world)
    possible = ~truth if denied else truth
    found: list[dict[int, bool]] = []
    for signs in sorted(product((None, True, False), repeat=len(names)), key=_length):
        clause = {i: sign for i, sign in enumerate(signs) if sign is not None}
        if any(short.items() <= clause.items() for short in found):
            continue
        holds = torch.zeros_like(possible)
        for index, sign in clause.items():
            holds |= Signed(names[index], sign).holds(world)
        if bool((holds | ~possible).all()):
            found.append(clause)
    return tuple(tuple(clause.items()) for clause in found)


def _length(signs: Sequence[bool | None]) -> int:
    return sum(sign is not None for sign in signs)


def _numbered(claim: Claim, number: Mapping[Name, int]) -> Claim:
    def formula(one: Formula) -> Formula:
        return Formula(one.op, tuple(Signed(number[p.name], p.positive) for p in one.parts))

    condition = None if claim.condition is None else formula(claim.condition)
    return Claim(None, formula(claim.result), condition)


def conclude_claims(claims: Sequence[Claim | None], asked: Claim | None) -> Conclusion:
    """The verdict of a rule book over the claims about the asked person.

    Claims that could not be read count for nothing; without a readable question all is open.
    """
    if asked is None or len(asked.names) > MAX_NAMES:
        return Conclusion(OPEN, "")
    known = about([claim for claim in claims if claim is not None], asked.person)
    clauses = [
        clause
        for claim in known
        if len(claim.names) <= MAX_NAMES
        for clause in prime_implicates(claim)
    ]
    facts = {_atom(*clause) for clause in clauses if len(clause) == 1}
    lines = list(dict.fromkeys(line for clause in clauses for line in _directions(clause)))
    for head, denied in (("for", True), ("against", False)):
        lines += [_rule(head, clause) for clause in prime_implicates(asked, denied=denied)]
    lines += [f"{YES} :- for, not against.", f"{NO} :- against, not for."]
    lines.append(f"{OPEN} :- not {YES}, not {NO}.")
    rules = "\n".join(lines)
    book = RuleBook.parse(rules)
    holds = book.closure(facts)
    verdict = next(word for word in (YES, NO, OPEN) if word in holds)
    told = "\n".join([*(f"{fact}." for fact in sorted(facts)), rules])
    return Conclusion(verdict, told, None if verdict == OPEN else book.prove(verdict, facts))


def _directions(clause: Clause) -> Iterator[str]:
    """One rule for each literal of a clause of two or more."""
    if len(clause) > 1:
        for head in sorted(clause, key=str):
            yield _rule(_atom(head), clause - {head})


def _rule(head: str, clause: Clause) -> str:
    """The head holds where the clause is unmet; always, for one that nothing meets."""
    return f"{head} :- {_body(clause)}." if clause else f"{head}."


def _body(clause: Clause) -> str:
    """The opposites of a clause's literals: what leaves it unmet."""
    return ", ".join(sorted(_atom(one.opposite) for one in clause))


def _atom(one: Signed) -> str:
    return f"{'' if one.positive else '-'}p{one.name}"
