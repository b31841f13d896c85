"""Strata: order, bounds on passes, and the cycle that a refusal names."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saesteer.errors import RuleError
from saesteer.rules.stratify import downstream, stratify
from saesteer.rules.syntax import Atom, Origin, parse


def _heads(text: str) -> list[tuple[str, ...]]:
    return [tuple(str(rule.head) for rule in stratum.rules) for stratum in stratify(parse(text))]


def test_dependencies_come_first_whatever_the_order_of_writing() -> None:
    assert _heads("c :- not b. b :- a. a :- x. d :- not c, x.") == [("a",), ("b",), ("c",), ("d",)]


def test_independent_rules_share_a_stratum() -> None:
    assert _heads("a :- x. b :- not y. a :- z.") == [("a", "b", "a")]


def test_only_positive_cycles_cost_passes() -> None:
    strata = stratify(parse("a :- b. b :- c. c :- a. c :- x. d :- c."))
    assert [stratum.passes for stratum in strata] == [3, 1]


@pytest.mark.parametrize(
    ("text", "cycle"),
    [
        ("p :- not p.", "p needs not p (line 1)"),
        ("a :- not b.\nb :- a.", "a needs not b (line 1), b needs a (line 2)"),
        ("a :- b.\nb :- c.\nc :- not a.\nb :- d.", "c needs not a (line 3), a needs b (line 1)"),
        ("a :- not not a.", "a needs not not a (line 1)"),
        (
            "a :- not b.\nb :- x.\nb :- y.\nx :- a.\ny :- z.\nz :- a.",
            "a needs not b (line 1), b needs x (line 2), x needs a (line 4).",
        ),
        (
            "p(X) :- q(X).\nq(X) :- r(X), not p(X).",
            "line 2: cycle through negation: q(_) needs not p(_) (line 2), p(_) needs q(_)",
        ),
        ("a :- x, not -b.\n-b :- not a.", "-b needs not a (line 2), a needs not -b (line 1)"),
    ],
)
def test_a_cycle_through_negation_is_refused_and_named(text: str, cycle: str) -> None:
    with pytest.raises(RuleError, match="cycle through negation") as caught:
        stratify(parse(text, Origin("written")))
    assert cycle in str(caught.value)
    assert str(caught.value).startswith("written line ")


def test_a_cycle_through_negation_elsewhere_does_not_hide_behind_long_chains() -> None:
    chain = "\n".join(f"a{i} :- a{i + 1}." for i in range(3000))
    assert len(stratify(parse(chain))) == 3000
    with pytest.raises(RuleError, match="line 3001: cycle through negation: a3000 needs not a2999"):
        stratify(parse(f"{chain}\na3000 :- not a2999."))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), max_size=12))
def test_refused_exactly_when_some_atom_reaches_itself_through_not(
    edges: list[tuple[int, int, bool]],
) -> None:
    text = "".join(f"a{i} :- {'not ' * neg}a{j}. " for i, j, neg in edges)
    reach = {(i, j) for i, j, _ in edges} | {(i, i) for i in range(6)}
    for k in range(6):
        reach |= {(i, j) for i in range(6) for j in range(6) if {(i, k), (k, j)} <= reach}
    if any(neg and (j, i) in reach for i, j, neg in edges):
        with pytest.raises(RuleError, match="cycle through negation"):
            stratify(parse(text))
    else:
        settled: set[Atom] = set()
        for stratum in stratify(parse(text)):
            later = {rule.head for rule in parse(text).rules} - settled
            assert not any(b.nots and b.atom in later for r in stratum.rules for b in r.body)
            settled |= {rule.head for rule in stratum.rules if rule.head is not None}


def test_downstream_follows_rules_through_negation() -> None:
    program = parse("b :- not a. c :- b, x. d :- y.")
    assert {str(atom) for atom in downstream(program, {Atom("a")})} == {"a", "b", "c"}
