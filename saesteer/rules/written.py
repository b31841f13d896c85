"""Rules written in Python: `careful <= pain & ~casual | urgent` means what its text form means.

    pain, casual, urgent, careful = atoms("pain casual urgent careful")
    book = RuleBook(program(careful <= pain & ~casual | urgent, never(pain & casual)))

`|` makes several rules of one head, `~` is `not` and reaches through `&` and `|`, `-pain` is the
atom of its own that text writes the same way. `holds("X", "gun")` gives arguments, upper-case ones
being variables; `compare("S", ">", 700)` is a comparison.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import final

from saesteer.errors import RuleError
from saesteer.rules.safety import check_rule
from saesteer.rules.terms import Atom, Comparison, Literal, Program, Rule, Term, check_name

OPPOSITE = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "=": "!=", "!=": "="}
SOURCE = "rules written in Python"

Part = Literal | Comparison


@final
@dataclass(frozen=True)
class Statement:
    """One or more rules of one head."""

    rules: tuple[Rule, ...]


@final
@dataclass(frozen=True)
class Formula:
    """Alternatives, of which one must hold; each is a body."""

    alternatives: tuple[tuple[Part, ...], ...]

    def __and__(self, other: Formula) -> Formula:
        """Both."""
        pairs = product(self.alternatives, other.alternatives)
        return Formula(tuple(one + two for one, two in pairs))

    def __or__(self, other: Formula) -> Formula:
        """At least one."""
        return Formula(self.alternatives + other.alternatives)

    def __invert__(self) -> Formula:
        """Neither: every alternative fails somewhere."""
        return Formula(tuple(product(*(map(_deny, body) for body in self.alternatives))))

    def __neg__(self) -> Formula:
        """The atom of its own that is written `-p`."""
        atom = self._atom("-")
        return _of(Atom(atom.name, not atom.strong, atom.args))

    def __call__(self, *args: str | int) -> Formula:
        """The same predicate about these entities, variables (upper case) or integers."""
        atom = self._atom("arguments")
        return _of(Atom(atom.name, atom.strong, tuple(map(_term, args))))

    def __le__(self, body: Formula | bool) -> Statement:
        """Derive this atom where `body` holds; `atom <= True` is a fact."""
        head = self._atom("<=")
        bodies = body.alternatives if isinstance(body, Formula) else ((),) * body
        return Statement(tuple(_rule(head, parts) for parts in bodies))

    def __bool__(self) -> bool:
        """Refused: `and`, `or`, `not` and chains ask for it, and would drop half of a rule."""
        raise RuleError("a rule in Python takes & for 'and', | for 'or' and ~ for 'not'.")

    def _atom(self, who: str) -> Atom:
        match self.alternatives:
            case ((Literal(atom=atom, nots=0),),):
                return atom
            case _:
                raise RuleError(f"{who} stands at one atom, got {self}; name what it combines.")

    def __str__(self) -> str:
        """Its alternatives, as bodies in text."""
        return " | ".join(", ".join(map(str, parts)) for parts in self.alternatives)


def atoms(names: str) -> tuple[Formula, ...]:
    """One formula for each name, separated by blanks or commas.

    Raises:
        RuleError: a name that no rule can use.
    """
    return tuple(_of(Atom(check_name(name))) for name in names.replace(",", " ").split())


def compare(left: str | int, sign: str, right: str | int) -> Formula:
    """A comparison of variables and integers (or, by = and !=, entities).

    Raises:
        RuleError: no such sign.
    """
    if sign not in OPPOSITE:
        raise RuleError(f"{sign!r} is no comparison; expected one of {', '.join(OPPOSITE)}.")
    return Formula(((Comparison(_term(left), sign, _term(right)),),))


def never(body: Formula) -> Statement:
    """A constraint: an alarm where `body` holds."""
    return Statement(tuple(_rule(None, parts) for parts in body.alternatives))


def program(*statements: Statement | Formula) -> Program:
    """The program of some statements, in order.

    Raises:
        RuleError: what is no statement.
    """
    return Program(tuple(_rules(statements)), SOURCE)


def _rules(statements: tuple[Statement | Formula, ...]) -> Iterator[Rule]:
    for number, statement in enumerate(statements, 1):
        if not isinstance(statement, Statement):
            raise RuleError(
                f"statement {number} is {statement}, which derives nothing; "
                "write head <= body, or never(body)."
            )
        for rule in statement.rules:
            yield Rule(rule.head, rule.body, number, rule.tests)


def _rule(head: Atom | None, parts: tuple[Part, ...]) -> Rule:
    body = tuple(part for part in parts if isinstance(part, Literal))
    tests = tuple(part for part in parts if isinstance(part, Comparison))
    return check_rule(Rule(head, body, 0, tests), SOURCE)


def _deny(part: Part) -> Part:
    if isinstance(part, Literal):
        return Literal(part.atom, 2 if part.nots == 1 else 1)
    return Comparison(part.left, OPPOSITE[part.sign], part.right)


def _of(atom: Atom) -> Formula:
    return Formula(((Literal(atom),),))


def _term(value: str | int) -> Term:
    term = Term(str(value))
    return term if term.is_variable or term.is_integer else Term(check_name(term.text))
