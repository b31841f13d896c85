"""What can be parsed but not meant: unsafe variables, and comparisons clingo would misread."""

from __future__ import annotations

from collections.abc import Iterator

from saesteer.errors import RuleError
from saesteer.rules.terms import (
    MAX_INTEGER,
    ORDERS,
    STRENGTH,
    Comparison,
    Rule,
    Term,
)

ANYTHING = Term("_")


def check_rule(rule: Rule, source: str) -> Rule:
    """The same rule, if every variable is bound and every comparison means what it says.

    Raises:
        RuleError: naming the variable or the comparison, and the spelling that works.
    """
    for test in rule.tests:
        _check_comparison(test, f"{source} line {test.line}, column {test.column}")
    place = f"{source} line {rule.line}"
    _check_anything(rule, place)
    bound = bound_variables(rule)
    for variable in _variables(rule):
        if variable not in bound:
            raise RuleError(
                f"{place}: variable {variable} of '{rule}' is unsafe, since nothing says what it "
                f"ranges over. Add an atom without 'not' that has {variable} in it."
            )
    for term in _terms(rule):
        if term.is_integer and abs(int(term.text)) > MAX_INTEGER:
            raise RuleError(f"{place}: {term} is beyond clingo's integers, ±{MAX_INTEGER}.")
    if rule.head is not None and rule.head.name == STRENGTH:
        raise RuleError(
            f"{place}: '{STRENGTH}' is read from activations and can't be derived. "
            "Give the head another name."
        )
    return rule


def bound_variables(rule: Rule) -> set[Term]:
    """Variables that an atom without `not` ranges over, or that equal something bound."""
    bound = {v for literal in rule.body if not literal.nots for v in literal.atom.variables}
    bound.discard(ANYTHING)
    while True:
        sides = [(t.left, t.right) for t in rule.tests if t.sign == "="]
        sides += [(right, left) for left, right in sides]
        new = {a for a, b in sides if a.is_variable and (b in bound or not b.is_variable)}
        if new <= bound:
            return bound
        bound |= new


def _variables(rule: Rule) -> Iterator[Term]:
    return (term for term in _terms(rule) if term.is_variable and term != ANYTHING)


def _terms(rule: Rule) -> Iterator[Term]:
    for literal in rule.body:
        yield from literal.atom.args
    for test in rule.tests:
        yield from (test.left, test.right)
    yield from () if rule.head is None else rule.head.args


def _check_comparison(test: Comparison, place: str) -> None:
    """A name in an order is a symbol to clingo, never the strength of a concept."""
    sides = (test.left, test.right)
    names = [side for side in sides if not (side.is_variable or side.is_integer)]
    if not any(side.is_variable for side in sides) or (names and test.sign in ORDERS):
        name = str(names[0]) if names else "CONCEPT"
        number = next((str(side) for side in sides if side.is_integer), "700")
        sign = test.sign if test.sign in ORDERS else ">"
        raise RuleError(
            f"{place}: '{test}' would be decided by the order of symbols, not by how strong "
            f"{name} is. Write {STRENGTH}({name}, S), S {sign} {number}, in thousandths."
        )
    if ANYTHING in sides:
        raise RuleError(f"{place}: '_' can't be compared; name the variable.")


def _check_anything(rule: Rule, place: str) -> None:
    atoms = [literal.atom for literal in rule.body if literal.nots]
    atoms += [] if rule.head is None else [rule.head]
    for atom in atoms:
        if ANYTHING in atom.args:
            raise RuleError(
                f"{place}: '_' in '{atom}' has nothing to range over; it may only stand in an "
                "atom without 'not' in a body. Write another rule that derives what is meant."
            )
