"""Rules with variables: clingo's answers, proofs from instances, limits, and both engines alike."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import answer, edges, small, with_variables

from saesteer.errors import RuleError
from saesteer.rules import Proof, RuleBook
from saesteer.rules.compile import compile_program
from saesteer.rules.ground import GROUND_LIMIT, solve
from saesteer.rules.grounded import GroundedProgram, compile_any
from saesteer.rules.proof import closure, prove
from saesteer.rules.syntax import Atom, Program, parse

ROADS = """
path(X,Y) :- road(X,Y).
path(X,Z) :- road(X,Y), path(Y,Z).
place(X) :- road(X,_).
place(Y) :- road(_,Y).
lonely(X) :- place(X), not path(X,X), X != home.
grave :- strength(pain, S), S > 700.
stronger(X) :- strength(X, S), strength(pain, T), S > T.
same(X,Y) :- place(X), X = Y.
far(X) :- path(home, X), not road(home, X).
:- lonely(X), grave.
"""


@pytest.mark.parametrize("seed", range(60))
def test_answers_and_proofs_equal_clingo_on_the_program_as_it_is_written(seed: int) -> None:
    rng = random.Random(seed)
    program, facts = parse(with_variables(rng)), edges(rng)
    expected, violated = answer(program, facts)
    atoms = [Atom.parse(fact) for fact in facts]
    assert set(map(str, solve(program, atoms))) == expected
    came = closure(program, atoms)
    assert set(map(str, came)) == expected
    for name in sorted(expected):
        _check(prove(program, came, Atom.parse(name)), expected, set(facts))
    for name in ("t(a,b)", "r(b,b)", "p(d,a)"):
        proof = prove(program, came, Atom.parse(name))
        assert proof.holds == (name in expected)
    logic = compile_any(program, sorted(set(atoms)))
    mask = torch.zeros(1, 1, len(logic.atoms), dtype=torch.bool)
    mask[..., : len(set(atoms))] = True
    closed, alarms = logic.settle(mask)
    held = {a for a, up in zip(logic.atoms, closed[0, 0].tolist(), strict=True) if up}
    assert held == expected
    assert alarms[0, 0].tolist() == violated


def _check(proof: Proof, held: set[str], facts: set[str]) -> None:
    atom = proof.literal.split()[-1]
    assert proof.holds == ((atom in held) != (proof.literal.count("not ") == 1))
    if proof.rule is not None:
        assert str(proof.rule.head) == atom
        assert replace(proof.rule, tests=()).is_ground
        assert all(test.holds() for test in proof.rule.tests)
        assert [child.literal for child in proof.children] == [str(b) for b in proof.rule.body]
        for child in proof.children:
            assert child.holds
            _check(child, held, facts)
    elif proof.holds and not proof.literal.startswith("not"):
        assert atom in facts


@pytest.mark.parametrize("seed", range(100))
def test_both_engines_give_the_same_answers_where_both_apply(seed: int) -> None:
    rng = random.Random(seed)
    program = parse(small(rng))
    tensor = compile_program(program)
    atoms = [Atom.parse(a) for a in tensor.atoms]
    grounded = GroundedProgram(program, tensor.atoms, program.constraints(atoms), ())
    mask = torch.rand(2, 3, len(tensor.atoms), generator=torch.Generator().manual_seed(seed)) < 0.3
    for one, other in zip(tensor.settle(mask), grounded.settle(mask), strict=True):
        assert torch.equal(one, other)


def test_comparisons_closed_paths_and_strengths() -> None:
    book = RuleBook.parse(ROADS)
    facts = {"road(home,b)", "road(b,c)", "road(c,b)", "strength(pain,701)", "strength(calm,900)"}
    held = book.closure(facts)
    assert {"path(home,c)", "path(b,b)", "grave", "stronger(calm)", "far(c)", "same(b,b)"} <= held
    assert not {"lonely(home)", "lonely(b)", "stronger(pain)", "far(b)", "same(b,c)"} & held
    proof = book.prove("path(home,c)", facts)
    assert str(proof).split("\n") == [
        "path(home,c) holds: path(home,c) :- road(home,b), path(b,c).  (line 3)",
        "├─ road(home,b) holds: given",
        "└─ path(b,c) holds: path(b,c) :- road(b,c).  (line 2)",
        "   └─ road(b,c) holds: given",
    ]
    assert "grave" not in book.closure({"strength(pain,700)"})
    grave = book.prove("grave", facts)
    assert str(grave).startswith("grave holds: grave :- strength(pain,701), 701 > 700.  (line 7)")


def test_an_atom_and_its_contrary_both_hold_and_raise_an_alarm() -> None:
    book = RuleBook.parse("p(X) :- q(X). -p(X) :- r(X), not s. -r(k).")
    assert book.closure({"q(a)", "r(a)"}) == {"q(a)", "r(a)", "p(a)", "-p(a)", "-r(k)"}
    logic = compile_any(book.program, [Atom.parse("q(a)"), Atom.parse("r(a)")])
    mask = torch.zeros(1, 2, len(logic.atoms), dtype=torch.bool)
    mask[0, 1, :2] = True
    _, alarms = logic.settle(mask)
    raised = [str(logic.watched[i]) for i in alarms[0, 1].nonzero().flatten().tolist()]
    assert raised == [":- p(X0), -p(X0)."]
    assert not alarms[0, 0].any()


def test_why_not_names_the_comparison_that_failed() -> None:
    program = parse("grave :- strength(pain,S), S > 700.\nok(X) :- a(X,Y), not b(Y).")
    came = closure(program, map(Atom.parse, ["strength(pain,650)", "a(k,m)", "b(m)"]))
    told = str(prove(program, came, Atom("grave")))
    assert "650 > 700 does not hold: in grave :- strength(pain,650), 650 > 700." in told
    assert "not b(m) does not hold" in str(prove(program, came, Atom.parse("ok(k)")))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(["a", "b", "ab", "aB", "x_y", "0", "-5", "12"]), unique=True))
def test_the_order_of_integers_and_entities_is_clingos(entities: list[str]) -> None:
    program = parse("".join(f"d({e}). " for e in entities) + "lt(X,Y) :- d(X), d(Y), X < Y.")
    assert set(map(str, closure(program, []))) == answer(program, [])[0]


@pytest.mark.parametrize(
    "text",
    [
        "p(A,B,C,D,E,F) :- d(A), d(B), d(C), d(D), d(E), d(F).",
        "p :- d(A), d(B), d(C), d(D), d(E), d(F), A > B, B > A.",
        ":- d(A), d(B), d(C), d(D), d(E), d(F), not q.",
        "e(X,Y) :- d(X), d(Y). f(X,Y) :- e(X,Y). g(X,W) :- f(X,Y), e(Y,Z), f(Z,W).",
        "p :- d(_), d(_), d(_), d(_).",
    ],
)
def test_a_grounding_that_explodes_is_refused_before_it_starts(text: str) -> None:
    program = parse(text + "".join(f" d(x{i})." for i in range(100)))
    began = time.perf_counter()
    with pytest.raises(RuleError, match=r"may have .* instances, and all rules together at most"):
        RuleBook(program).compile()
    with pytest.raises(RuleError, match="instances"):
        RuleBook(program).closure(set())
    assert time.perf_counter() - began < 5


def test_the_bound_is_never_below_what_clingo_grounds() -> None:
    from saesteer.rules.ground import check_size

    rng = random.Random(1)
    for _ in range(30):
        program, facts = parse(with_variables(rng)), [Atom.parse(f) for f in edges(rng)]
        true = set(solve(program, facts))
        derived = Program(tuple(r for r in program.rules if r.body), program.source)
        n_instances = len({str(r) for r in _instances(derived, true)})
        if n_instances:
            with pytest.raises(RuleError):
                check_size(program, facts, n_instances - 1)
    assert GROUND_LIMIT >= 100_000


def _instances(program: Program, true: set[Atom]) -> list[object]:
    from saesteer.rules.ground import instances

    return list(instances(program.rules, true))


def test_answers_are_cached_by_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    from saesteer.rules import grounded

    asked: list[object] = []
    real = grounded.solve
    monkeypatch.setattr(grounded, "solve", lambda *a: (asked.append(a), real(*a))[1])
    logic = compile_any(parse("q(X) :- p(X), not r(X)."), [Atom.parse("p(a)"), Atom.parse("r(a)")])
    asked.clear()
    mask = torch.zeros(3, 50, len(logic.atoms), dtype=torch.bool)
    mask[0, :, 0] = True
    mask[1, :, :2] = True
    closed = logic.run(mask)
    assert len(asked) == 3
    column = logic.atoms.index("q(a)")
    assert closed[..., column].float().mean(1).tolist() == [1, 0, 0]
    assert torch.equal(logic.run(mask), closed)
    assert len(asked) == 3
