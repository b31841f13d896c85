"""Open atoms about entities: the rules spelled out are the rules, and mean what they did."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from random_programs import edges, with_variables

from saesteer.errors import RuleError
from saesteer.models import Model
from saesteer.rules import RuleBook
from saesteer.rules.ground import solve
from saesteer.rules.names import open_as
from saesteer.rules.open_ground import OPEN_LIMIT, spell_out
from saesteer.rules.open_world import judge
from saesteer.rules.opened import OpenProgram
from saesteer.rules.syntax import Atom, Program, parse
from saesteer.rules.terms import contrary
from saesteer.saes import SAE

CASE = """
suspect(X) :- near(X, gun).
guilty(X) :- suspect(X), not alibi(X).
done(X) :- guilty(X).
done(X) :- suspect(X), alibi(X).
-alibi(X) :- seen(X, scene).
:- guilty(X), friend(X).
"""
FACTS = ["near(bob,gun)", "near(eve,gun)", "near(kim,gun)", "seen(eve,scene)", "alibi(kim)"]


def _programs(n: int) -> Iterator[tuple[int, random.Random, Program, list[Atom]]]:
    """Random rules over entities, some of their relations open, and facts."""
    for seed in range(n):
        rng = random.Random(seed)
        text = with_variables(rng, "ab")
        names = sorted({Atom(atom.name) for atom in parse(text).atoms})
        written = parse(text + "".join(f"u(X) :- -{name}(X,Y). " for name in names))
        program = open_as(written, rng.sample(names, rng.randint(1, 2)), written.atoms)
        try:
            facts = list(map(Atom.parse, edges(rng, "ab")))
            RuleBook(program)
            yield seed, rng, program, facts
        except RuleError:
            continue


def test_the_rules_spelled_out_derive_what_clingo_derives_from_the_rules_as_written() -> None:
    checked = 0
    for seed, rng, program, facts in _programs(60):
        spelled = spell_out(program, facts)
        assert spelled.is_ground
        for _ in range(4):  # any column may be a fact
            chosen = [rng.choice((atom, contrary(atom))) for atom in spelled.open]
            given = [*(atom for atom in spelled.atoms if rng.random() < 0.2), *chosen]
            closed = (replace(one, open=()) for one in (program, spelled))
            expected, found = (solve(one, given) for one in closed)
            assert found == expected, seed
            checked += 1
    assert checked > 100


def test_what_is_open_is_as_if_every_way_to_settle_it_were_run_through_clingo() -> None:
    """The right side knows of an open world nothing but which propositions are open."""
    checked = unsure = 0
    for seed in range(100):
        rng = random.Random(seed)
        written = parse(with_variables(rng, "ab"))
        rules = tuple(rule for rule in written.statements if rule.body)
        facts = list(map(Atom.parse, edges(rng, "ab")))
        program = open_as(Program(rules), [Atom("e")], written.atoms)
        spelled = spell_out(program, facts)
        found = judge(spelled, facts)
        unsettled = [atom for atom in spelled.open if atom not in facts]
        ways = itertools.product(*((atom, contrary(atom)) for atom in unsettled))
        worlds = [solve(Program(rules), [*facts, *way]) for way in ways]
        always, some = frozenset.intersection(*worlds), frozenset.union(*worlds)
        assert found.true == always, seed
        assert found.unknown == some - always, seed
        checked += bool(unsettled)
        unsure += bool(found.unknown - {s for a in unsettled for s in (a, contrary(a))})
    assert checked > 50
    assert unsure > 10


def test_an_open_relation_is_unknown_of_everybody_a_rule_asks_about() -> None:
    book = RuleBook.parse(CASE, open=["alibi"])
    assert book.unknown(FACTS) == {"alibi(bob)", "-alibi(bob)", "guilty(bob)"}
    held = book.closure(FACTS)
    assert {"guilty(eve)", "done(bob)", "done(eve)", "done(kim)"} <= held
    assert not {"guilty(bob)", "guilty(kim)"} & held
    assert "whether alibi(bob) or not" in str(book.prove("done(bob)", FACTS))
    assert "-alibi(bob) must hold" in str(book.why_not("guilty(bob)", FACTS))
    assert not RuleBook.parse(CASE).unknown(FACTS)
    assert "guilty(bob)" in RuleBook.parse(CASE).closure(FACTS)


def test_two_open_relations_range_over_each_others_entities() -> None:
    book = RuleBook.parse("h(X) :- p(X), q(X).", open=["p", "q"])
    assert book.unknown(["p(a)"]) == {"q(a)", "-q(a)", "h(a)"}


def test_one_atom_of_a_relation_may_be_open_alone() -> None:
    book = RuleBook.parse(CASE, open=["alibi(bob)"])
    assert book.unknown(FACTS) == {"alibi(bob)", "-alibi(bob)", "guilty(bob)"}
    assert book.unknown(FACTS[1:]) == {"alibi(bob)", "-alibi(bob)"}


def test_the_compiled_program_is_of_the_concepts_and_judges_rows_by_themselves() -> None:
    never = {"feature": 1, "threshold": 1e9}
    raw = {
        "concepts": dict.fromkeys([*FACTS, "friend(bob)"], never),
        "rules": CASE,
        "open": ["alibi"],
    }
    book = RuleBook.from_dict(raw)
    logic = book.compile()
    assert isinstance(logic, OpenProgram)
    mask = torch.rand(3, 5, len(logic.atoms), generator=torch.Generator().manual_seed(0)) < 0.5
    mask[..., len(book.concepts) :] = False
    true, alarms, unknown = logic.judge(mask)
    assert unknown is not None
    clash = [str(rule) for rule in logic.watched].index(":- guilty(bob), friend(bob).")
    n_unknown = 0
    for row, pos in itertools.product(range(3), range(5)):
        at = (row, pos)
        told = [a for a, up in zip(logic.atoms, mask[at].tolist(), strict=True) if up]
        held = book.closure(told)
        assert {a for a, up in zip(logic.atoms, true[at].tolist(), strict=True) if up} == held
        assert bool(alarms[at][clash]) == ({"guilty(bob)", "friend(bob)"} <= held)
        open_here = {a for a, up in zip(logic.atoms, unknown[at].tolist(), strict=True) if up}
        assert book.unknown(told) <= open_here
        assert open_here - book.unknown(told) <= set(map(str, _about_nobody(logic.program)))
        n_unknown += bool(open_here)
    assert n_unknown == 15


def _about_nobody(program: Program) -> list[Atom]:
    """Open atoms: those of entities that a prompt does not speak of are unknown there too."""
    return [side for atom in program.open for side in (atom, contrary(atom))]


def test_a_gate_over_entities_stays_shut_while_its_head_is_unknown(
    tiny_model: Callable[..., Model], tiny_sae: Callable[..., SAE]
) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    ever, never = {"feature": 1, "threshold": -1}, {"feature": 1, "threshold": 1e9}
    concepts: dict[str, Any] = {"near(bob,gun)": ever, "seen(bob,scene)": never}
    raw = {"rules": CASE, "acts": {"guilty(bob)": {"report": "came up"}}}
    for opened, seen, reported in ((False, never, True), (True, never, False), (True, ever, True)):
        own = {"seen(bob,scene)": seen, "alibi(bob)": never, "friend(bob)": never}
        told = raw | {"concepts": concepts | own}
        book = RuleBook.from_dict(told | {"open": ["alibi"] if opened else False})
        with book.plan(sae).on(model) as trace:
            model.generate("the rain", max_new_tokens=3)
        assert ("came up" in str(trace.events)) == reported, (opened, seen)
        unsure = "guilty(bob) is unknown" in str(trace.explain(token=-1))
        assert unsure == (not reported)


def test_too_many_open_propositions_are_refused_by_name() -> None:
    facts = [f"n({i})" for i in range(100)]
    book = RuleBook.parse("h(X) :- n(X), n(Y), n(Z), not p(X,Y,Z).", open=["p"])
    with pytest.raises(RuleError, match=r"open: p\(_,_,_\) stands for 1,000,000 propositions"):
        book.closure(facts)
    book = RuleBook.parse("h(X) :- n(X), n(Y), n(Z), p(X).", open=["p"])
    with pytest.raises(RuleError, match=f"line 1: 'h.*at most {OPEN_LIMIT:,} are grounded"):
        book.closure(facts)
