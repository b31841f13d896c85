"""The Python form: the same rules as in text, and truth tables of whole formulas."""

from __future__ import annotations

import itertools
import random

import pytest
from random_programs import small

from saesteer.errors import RuleError
from saesteer.rules import RuleBook, atoms, compare, never, program
from saesteer.rules.syntax import parse
from saesteer.rules.terms import Program
from saesteer.rules.written import Formula, Statement


def _in_python(text: Program) -> Program:
    """A program rebuilt with operators alone."""

    def of(literal) -> Formula:
        (formula,) = atoms(literal.atom.name)
        formula = -formula if literal.atom.strong else formula
        return [formula, ~formula, ~~formula][literal.nots]

    def statement(rule) -> Statement:
        body = None
        for literal in rule.body:
            body = of(literal) if body is None else body & of(literal)
        if rule.head is None:
            return never(body)
        (head,) = atoms(rule.head.name)
        return (-head if rule.head.strong else head) <= (True if body is None else body)

    return program(*map(statement, text.statements))


@pytest.mark.parametrize("seed", range(100))
def test_python_form_equals_text_form(seed: int) -> None:
    text = parse(small(random.Random(seed)))
    assert _in_python(text) == text


def _truth(tree, world: set[str]) -> bool:
    match tree:
        case str():
            return tree in world
        case ("~", one):
            return not _truth(one, world)
        case ("&", one, two):
            return _truth(one, world) and _truth(two, world)
        case (_, one, two):
            return _truth(one, world) or _truth(two, world)


def _formula(tree) -> Formula:
    match tree:
        case str():
            return atoms(tree)[0]
        case ("~", one):
            return ~_formula(one)
        case ("&", one, two):
            return _formula(one) & _formula(two)
        case (_, one, two):
            return _formula(one) | _formula(two)


def _tree(rng: random.Random, depth: int):
    if depth == 0 or rng.random() < 0.2:
        return rng.choice("abcd")
    sign = rng.choice("~&|")
    inside = [_tree(rng, depth - 1) for _ in range(1 if sign == "~" else 2)]
    return (sign, *inside)


@pytest.mark.parametrize("seed", range(40))
def test_formulas_have_their_truth_tables(seed: int) -> None:
    tree = _tree(random.Random(seed), 3)
    (head,) = atoms("head")
    book = RuleBook(program(head <= _formula(tree)))
    for n in range(5):
        for world in map(set, itertools.combinations("abcd", n)):
            assert ("head" in book.closure(world)) == _truth(tree, world), (tree, world)


def test_variables_comparisons_facts_and_constraints() -> None:
    strength, grave, holds, armed, weapon = atoms("strength, grave, holds, armed, weapon")
    written = program(
        grave <= strength("pain", "S") & compare("S", ">", 700),
        armed("X") <= holds("X", "Y") & weapon("Y") & ~compare("X", "=", "nobody"),
        weapon("gun") <= True,
        never(armed("X") & grave),
    )
    assert written == parse(
        "grave :- strength(pain,S), S > 700. armed(X) :- holds(X,Y), weapon(Y), X != nobody."
        "weapon(gun). :- armed(X), grave."
    )


def test_what_python_would_misread_is_refused() -> None:
    a, b, c = atoms("a b c")
    with pytest.raises(RuleError, match="takes & for 'and'"):
        _ = a <= (b and c)
    with pytest.raises(RuleError, match="takes & for 'and'"):
        _ = not a
    with pytest.raises(RuleError, match="<= stands at one atom, got b, c"):
        _ = (b & c) <= a
    with pytest.raises(RuleError, match="statement 2 is a, which derives nothing"):
        program(a <= b, a)
    with pytest.raises(RuleError, match="did you mean 'pain'"):
        atoms("Pain")
    with pytest.raises(RuleError, match="variable X of 'a :- not b"):
        _ = a <= ~b("X")
    with pytest.raises(RuleError, match="'=>' is no comparison"):
        compare("S", "=>", 3)
