"""The rule language: what is read, how it prints, and what the messages say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saesteer.errors import RuleError
from saesteer.rules.syntax import (
    Atom,
    Comparison,
    Literal,
    Origin,
    Program,
    Rule,
    Term,
    nearest,
    parse,
)

TERMS = st.sampled_from(["gun", "a_b", "x'", "0", "-7", "2147483647", "X", "_Y2", "Z"]).map(Term)
NAMES = st.from_regex(r"_{0,2}[a-z][A-Za-z0-9_']{0,6}", fullmatch=True).filter(lambda n: n != "not")
ATOMS = st.tuples(NAMES, st.booleans(), st.lists(TERMS, max_size=3).map(tuple)).filter(
    lambda atom: atom[0] != "strength"
)
SIGNS = st.sampled_from(["<", "<=", ">", ">=", "=", "!="])
TESTS = st.lists(st.tuples(TERMS.filter(lambda t: t.is_variable), SIGNS, TERMS), max_size=2)
BODIES = st.lists(st.tuples(ATOMS, st.integers(0, 2)), min_size=1, max_size=4)
RULES = st.tuples(ATOMS, st.one_of(st.just([]), BODIES), TESTS)
CONSTRAINTS = st.tuples(st.none(), BODIES, TESTS)
STATEMENTS = st.lists(st.one_of(RULES, CONSTRAINTS), max_size=6)
Statements = list[tuple[Any, list[tuple[Any, int]], list[tuple[Term, str, Term]]]]


def _program(statements: Statements) -> Program:
    """Made safe: a last atom without `not` binds every variable."""
    return Program(tuple(_rule(*statement) for statement in statements))


def _rule(head: Any, body: list[tuple[Any, int]], tests: list[tuple[Term, str, Term]]) -> Rule:
    literals = [Literal(Atom(*atom), nots) for atom, nots in body]
    names = [t for t in tests if t[2].is_variable or t[2].is_integer or t[1] in ("=", "!=")]
    atoms = [literal.atom for literal in literals] + ([Atom(*head)] if head else [])
    loose = {term for atom in atoms for term in atom.variables}
    loose |= {term for left, _, right in names for term in (left, right) if term.is_variable}
    if loose:
        literals.append(Literal(Atom("domain", args=tuple(sorted(loose)))))
    comparisons = tuple(Comparison(*test) for test in names)
    return Rule(Atom(*head) if head else None, tuple(literals), 0, comparisons)


@settings(deadline=None, max_examples=200)
@given(STATEMENTS)
def test_print_then_parse_is_the_identity(statements: Statements) -> None:
    program = _program(statements)
    assert parse(str(program)) == program


@settings(deadline=None, max_examples=100)
@given(STATEMENTS)
def test_parse_then_print_then_parse_is_the_identity_for_any_spacing(
    statements: Statements,
) -> None:
    program = _program(statements)
    text = str(program).replace(" ", "\n  ").replace(",", " ,").replace(":-", "%c :- .\n:-")
    assert parse(str(parse(text))) == parse(text) == program


@settings(deadline=None, max_examples=50)
@given(STATEMENTS)
def test_clingo_accepts_unchanged_whatever_is_accepted(statements: Statements) -> None:
    clingo = pytest.importorskip("clingo")
    refused: list[str] = []
    control = clingo.Control(logger=lambda _, message: refused.append(message))
    control.add("base", [], str(_program(statements)))
    control.ground([("base", [])])
    assert not [message for message in refused if "error" in message]


def test_every_kind_of_statement() -> None:
    program = parse(
        "careful :- pain, not casual. % why\nalways.\n-safe:-weapon,not not known.\n:- pain, x."
    )
    assert [str(s) for s in program.statements] == [
        "careful :- pain, not casual.",
        "always.",
        "-safe :- weapon, not not known.",
        ":- pain, x.",
    ]
    assert [rule.line for rule in program.statements] == [1, 2, 3, 4]
    assert program.heads == (Atom("careful"), Atom("always"), Atom("safe", strong=True))
    assert parse("") == Program(())


def test_strong_negation_is_another_atom_and_clashes_only_by_alarm() -> None:
    program = parse("p :- a. -p :- b.")
    assert program.heads == (Atom("p"), Atom("p", strong=True))
    assert [str(rule) for rule in program.constraints()] == [":- p, -p."]
    assert parse("-p :- b.").constraints() == ()
    assert len(parse("-p :- b.").constraints(given=[Atom("p")])) == 1
    assert len(parse("p. -p. :- p, -p.").constraints()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a :- b", "line 1, column 7: found the end of the rules, expected '(' or"),
        ("a :- b,.", "line 1, column 8: found '.', expected '-' or '_' or 'not' or a"),
        ("a :- b.\n\n  b :- c d.", "line 3, column 10: found 'd', expected '(' or ',' or"),
        ("a :- Pain.", "lower-case letter; did you mean 'pain'?"),
        ("a(f(x)).", "Only a name may have arguments, and they can't be nested."),
        ("a :- pain > 3.", "line 1, column 6: 'pain > 3' would be decided by the order of symbols"),
        ("a :- pain > 3.", "Write strength(pain, S), S > 3, in thousandths."),
        ("a :- b(X), X < gun.", "by the order of symbols, not by how strong gun is"),
        ("a :- 3 < 4.", "Write strength(CONCEPT, S), S < 3"),
        ("a :- strength(pain, S), S > 0.7.", "write 700 for 0.7"),
        ("a :- strength(pain, S), 1 < S < 4.", "write a chain as two"),
        ("a :- b(X), X == 3.", "A comparison is written ="),
        ("a :- b(X), X > 1 + 2.", "Numbers are not computed with"),
        ("a(1..3).", "Ranges are not read"),
        ('a("gun").', "Entities are names, not quoted text"),
        ("a :- b(X), X > 3000000000.", "3000000000 is beyond clingo's integers"),
        ("a :- b(007).", "found '0'"),
        ("a(X) :- b.", "line 1: variable X of 'a(X) :- b.' is unsafe"),
        ("a :- b,\n not c(Y).\n", "variable Y of 'a :- b, not c(Y).' is unsafe"),
        ("a.\nb :- not not c(Z).", "line 2: variable Z of"),
        ("a :- b(X), Y > X.", "variable Y of 'a :- b(X), Y > X.' is unsafe"),
        (":- X != Y, p(X).", "variable Y of"),
        ("p(X).", "variable X of 'p(X).' is unsafe"),
        ("a :- not b(_).", "'_' in 'b(_)' has nothing to range over"),
        ("a(_) :- b(_).", "'_' in 'a(_)' has nothing to range over"),
        ("a :- b(X), X != _.", "'_' can't be compared"),
        ("strength(pain, 3) :- a.", "can't be derived"),
        ("a() :- b.", "found ')'"),
        ("a ; b.", "Separate body literals with ','"),
        ("a :- b & c.", "Separate body literals with ','."),
        ("a :- !b.", "Negation is written 'not'."),
        ("{a}.", "Choice rules are not read"),
        ("not a.", "column 1: found 'not'"),
        (":- .", "column 4: found '.'"),
        ("# note\na.", "A comment starts with '%'."),
        ("%* note *% a.", "Block comments are not read"),
        ("a :- b, not not not c.", "column 9: 3 times 'not'"),
    ],
)
def test_errors_point_at_the_place_and_say_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(RuleError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert str(caught.value).startswith("rules line ")
    assert "\n" not in str(caught.value)


def test_an_origin_moves_the_place_and_names_the_file() -> None:
    with pytest.raises(RuleError, match=r"^med.yaml line 8, column 12: found '\.'"):
        parse("a.\na :- b,.", Origin("med.yaml", 7, 5))
    with pytest.raises(RuleError, match=r"^med.yaml line 7, column 10: 3 times"):
        parse("a :- not not not b.", Origin("med.yaml", 7, 5))
    literal = parse("a :- b,\n c.", Origin("med.yaml", 7, 5)).rules[0].body[1]
    assert (literal.line, literal.column) == (8, 6)


@pytest.mark.parametrize("name", ["Pain", "not", "", "1a", "a b", "é"])
def test_names_that_rules_cannot_use(name: str) -> None:
    with pytest.raises(RuleError, match="can't be a name"):
        Atom.parse(name)


def test_nearest_name() -> None:
    assert nearest("paim", ["pain", "casual"]) == "; did you mean 'pain'?"
    assert nearest("zzz", ["pain"]) == ""
