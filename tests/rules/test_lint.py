"""What `rules check` warns of, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from saesteer.rules.lint import lint
from saesteer.rules.syntax import Atom, parse


def test_what_is_open_may_be_false_without_a_rule_for_it() -> None:
    program = replace(parse("act :- -a, b."), open=(Atom("a"),))
    assert not [line for line in lint(program, ["a", "b"], [Atom("act")]) if "never" in line]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("act :- a, not b.", []),
        ("act :- a.", ["concept 'b' is read by no rule."]),
        ("act :- a, b. lone :- a.", ["'lone' is derived, but no rule reads it"]),
        ("act :- a, not a, b.", ["line 1: 'act :- a, not a, b.' never fires: it needs 'a' and"]),
        (
            "act :- a, b. x :- y. y :- x. act :- x.",
            ["'x :- y.'", "'y :- x.'", "'act :- x.'"],
        ),
        ("act :- b. act :- b, a.", ["'act :- b, a.' adds nothing to line 1: 'act :- b.'"]),
        ("act :- a, b. act :- b, a.", ["line 1: 'act :- b, a.' adds nothing"]),
        (":- a. :- a, b. act :- a.", ["':- a, b.' adds nothing to line 1: ':- a.'"]),
        ("act :- strength(a, S), S > 3, b. act :- strength(b, S), S > 3.", []),
        ("act :- strength(_, S), S > 3.", []),
        ("p(X) :- q(X). q(k). act :- p(k), a, not not b.", []),
    ],
)
def test_warnings(text: str, expected: list[str]) -> None:
    found = lint(parse(text), ["a", "b"], [Atom("act")])
    assert len(found) == len(expected), found
    for part in expected:
        assert any(part in line for line in found), (part, found)
