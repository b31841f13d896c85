"""Open atoms: what is true, false and unknown, by definition, by tensors and by clingo alike."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from random_programs import small

from saesteer.errors import ConfigError, RuleError
from saesteer.models import Model
from saesteer.rules import RuleBook
from saesteer.rules.compile import compile_program
from saesteer.rules.gate import RuleGate
from saesteer.rules.open_world import (
    Judgement,
    check_open,
    completion_rules,
    given_as,
    judge,
    knots,
    look_at_completions,
)
from saesteer.rules.opened import OpenProgram
from saesteer.rules.proof import Proof, closure, prove
from saesteer.rules.syntax import Atom, Program, Term, parse
from saesteer.rules.terms import contrary
from saesteer.saes import SAE
from saesteer.steer.frame import Frame


def _random_programs(n: int) -> Iterator[tuple[int, random.Random, Program]]:
    """Those of `n` seeds that may stand, each with its generator as it was left."""
    for seed in range(n):
        rng = random.Random(seed)
        if (program := _random_open(rng)) is not None:
            yield seed, rng, program


def _random_open(rng: random.Random) -> Program | None:
    """A random program with one to four open atoms, None where these have no meaning."""
    program = parse(small(rng, 7))
    names = sorted({Atom(atom.name) for atom in program.atoms})
    chosen = rng.sample(names, min(len(names), rng.randint(1, 4)))
    try:
        made = replace(program, open=tuple(chosen))
        check_open(made)
    except RuleError:
        return None
    return made


def _facts(rng: random.Random, program: Program) -> list[Atom]:
    return [atom for atom in program.atoms if rng.random() < 0.25]


def _worlds(program: Program, given: list[list[Atom]], atoms: list[Atom]) -> Judgement:
    """What the propositional engine finds true in all rows, and in some but not in all."""
    logic = compile_program(program, atoms)
    mask = torch.zeros(len(given), 1, len(logic.atoms), dtype=torch.bool)
    for row, facts in enumerate(given):
        for fact in facts:
            mask[row, 0, logic.atoms.index(str(fact))] = True
    held = logic.run(mask)[:, 0]
    always, some = held.all(0), held.any(0)
    named = [Atom.parse(a) for a in logic.atoms]
    true = frozenset(a for a, up in zip(named, always.tolist(), strict=True) if up)
    unsure = frozenset(a for a, up in zip(named, (some & ~always).tolist(), strict=True) if up)
    return Judgement(true & set(atoms), unsure & set(atoms))


def test_judging_equals_clingo_and_the_propositional_engine_over_all_completions() -> None:
    checked = knotted = 0
    for seed, rng, program in _random_programs(400):
        facts = _facts(rng, program)
        found = judge(program, facts)
        assert found == look_at_completions(program, facts), seed
        rules, given = completion_rules(program), [given_as(program, f) for f in facts]
        mays = [
            [Atom("__may", args=(Term(atom.name),)) for atom in some]
            for n in range(len(program.open) + 1)
            for some in itertools.combinations(program.open, n)
        ]
        expected = _worlds(rules, [[*given, *may] for may in mays], list(program.atoms))
        assert found == expected, seed
        checked += 1
        knotted += bool(knots(program))
    assert checked > 150
    assert 20 < knotted < checked - 20


def test_open_inputs_are_as_if_every_way_to_give_them_were_run_through_the_closed_rules() -> None:
    """Written from the definition alone: no code of the open world stands on the right side."""
    checked = 0
    for seed in range(300):
        rng = random.Random(seed)
        program = parse(small(rng, 7))
        heads = {Atom(head.name) for head in program.heads}
        inputs = sorted({Atom(a.name) for a in program.atoms} - heads)
        if not inputs:
            continue
        chosen = inputs[: rng.randint(1, 4)]
        opened = replace(program, open=tuple(chosen))
        facts = _facts(rng, program)
        unsettled = [a for a in chosen if a not in facts and contrary(a) not in facts]
        ways = itertools.product(*((a, contrary(a)) for a in unsettled))
        expected = _worlds(program, [[*facts, *way] for way in ways], list(opened.atoms))
        assert judge(opened, facts) == expected, seed
        checked += 1
    assert checked > 150


def test_tensors_judge_every_position_as_the_definition_does() -> None:
    asked = 0
    for seed, _, program in _random_programs(150):
        logic = OpenProgram.of(program, [Atom("stranger")])
        mask = torch.rand(2, 3, len(logic.atoms), generator=torch.Generator().manual_seed(seed))
        true, alarms, unknown = logic.judge(mask < 0.2)
        for row, pos in itertools.product(range(2), range(3)):
            names = [Atom.parse(a) for a in logic.atoms]
            facts = [a for a, m in zip(names, mask[row, pos].tolist(), strict=True) if m < 0.2]
            found = look_at_completions(program, facts)
            assert unknown is not None
            assert true[row, pos].tolist() == [a in found.true for a in names], seed
            assert unknown[row, pos].tolist() == [a in found.unknown for a in names], seed
            assert alarms[row, pos].tolist() == [found.violates(r) for r in logic.watched], seed
        assert torch.equal(logic.run(mask < 0.2), true)
        asked += len(logic.answers)
    assert asked > 20


def test_clingo_is_asked_only_about_knots_and_once_for_equal_facts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from saesteer.rules import opened

    asked: list[Any] = []
    real = opened.look_at_completions
    monkeypatch.setattr(opened, "look_at_completions", lambda *a: (asked.append(a), real(*a))[1])
    plain = RuleBook.parse("act :- p, not q. b :- r.", open=["p", "q"]).compile()
    plain.run(torch.zeros(2, 4, len(plain.atoms), dtype=torch.bool))
    assert not asked
    tied = RuleBook.parse("act :- p. act :- not p.", open=["p"]).compile()
    mask = torch.zeros(2, 4, len(tied.atoms), dtype=torch.bool)
    mask[0, :2, tied.atoms.index("p")] = True
    assert tied.run(mask)[..., tied.atoms.index("act")].all()
    assert len(asked) == 1


BOOK = RuleBook.parse(
    """
    careful :- pain, not casual.
    sure :- casual.
    sure :- not casual, pain.
    calm :- not careful.
    -casual :- formal.
    :- pain, not casual.
    """,
    open=["casual"],
)


@pytest.mark.parametrize(
    ("facts", "true", "unknown"),
    [
        ("pain", "pain sure", "casual -casual careful calm"),
        ("pain formal", "pain formal -casual careful sure", ""),
        ("pain casual", "pain casual sure calm", ""),
        ("", "calm", "casual -casual sure"),
        ("pain casual formal", "pain casual formal -casual sure calm", ""),
    ],
)
def test_what_is_true_and_what_unknown(facts: str, true: str, unknown: str) -> None:
    assert BOOK.closure(facts.split()) == set(true.split())
    assert BOOK.unknown(facts.split()) == set(unknown.split())


def test_a_rule_is_not_turned_round_and_a_clash_raises_an_alarm_where_it_is_certain() -> None:
    book = RuleBook.parse("h :- p.", open=["p", "h"])
    assert book.unknown(["-h"]) == {"p", "-p"} | {"h"}
    logic = book.compile()
    mask = torch.zeros(1, 2, len(logic.atoms), dtype=torch.bool)
    mask[0, :, logic.atoms.index("-h")] = True
    mask[0, 1, logic.atoms.index("p")] = True
    _, alarms = logic.settle(mask)
    assert [str(r) for r in logic.watched] == [":- p, -p.", ":- h, -h."]
    assert alarms[0].tolist() == [[False, False], [False, True]]


def test_proofs_say_which_and_why() -> None:
    assert str(BOOK.prove("sure", ["pain"])).split("\n") == [
        "sure holds: whether casual or not",
        "├─ sure holds, if casual: sure :- casual.  (line 3)",
        "│  └─ casual holds: given",
        "└─ sure holds, if -casual: sure :- not casual, pain.  (line 4)",
        "   ├─ not casual holds",
        "   │  └─ -casual holds: given",
        "   └─ pain holds: given",
    ]
    came = closure(BOOK.program, map(Atom.parse, ["pain"]))
    proof = prove(BOOK.program, came, Atom("careful"))
    assert (proof.holds, proof.unknown, proof.as_dict()["unknown"]) == (False, True, True)
    assert "careful is unknown" in str(proof)
    assert "not casual is unknown: neither casual nor -casual follows" in str(proof)
    false = prove(BOOK.program, closure(BOOK.program, []), Atom("careful"))
    assert str(false).startswith("careful does not hold: no rule for it holds\n└─ pain does not")


def test_every_proof_has_the_verdict_of_the_definition_and_closed_leaves() -> None:
    cases = 0
    for seed, rng, program in _random_programs(100):
        facts = _facts(rng, program)
        found, came = judge(program, facts), closure(program, facts)
        assert set(came) == set(found.true), seed
        for atom in program.atoms:
            proof = prove(program, came, atom)
            assert proof.holds == (atom in found.true), seed
            assert proof.unknown == (atom in found.unknown), seed
            cases += _check(proof, program, set(facts))
    assert cases >= 3


def _check(proof: Proof, program: Program, facts: set[Atom]) -> int:
    """Every step follows from its children; a case's assumption counts as given within it."""
    if proof.rule is not None:
        assert proof.rule in program.rules
        assert [child.literal for child in proof.children] == [str(b) for b in proof.rule.body]
        assert all(child.holds for child in proof.children)
    split = proof.note.startswith("whether ")
    if split:
        open_atom = Atom.parse(proof.note.split()[1])
        sides = (open_atom, contrary(open_atom))
        assert all(c.holds == proof.holds and not c.unknown for c in proof.children)
        both = zip(proof.children, sides, strict=True)
        return 1 + sum(_check(child, program, facts | {side}) for child, side in both)
    if proof.note == "given":
        assert Atom.parse(proof.literal.split()[-1]) in facts
    return sum(_check(child, program, facts) for child in proof.children)


def test_why_not_names_what_would_settle_it() -> None:
    miss = BOOK.why_not("careful", ["pain"])
    assert miss is not None
    assert str(miss).split("\n") == [
        "careful is unknown, nearest by careful :- pain, not casual.  (line 2)",
        "- formal must hold: not given",
    ]
    assert miss.enough
    assert BOOK.why_not("sure", ["pain"]) is None


@pytest.mark.parametrize(
    ("rules", "opened", "message"),
    [
        ("-p :- p.", ["p"], "an open atom rests on its own falsehood.*p needs not a rule against"),
        ("p :- -p.", ["p"], "an open atom rests on its own falsehood"),
        ("-a :- b. b :- a.", ["a"], "b needs a"),
        ("-p(X) :- p(X).", ["p"], "an open atom rests on its own falsehood"),
        (
            "p(X) :- q(X), strength(r, S), S > 700.",
            ["q"],
            "line 1: 'strength.r,S.' is always",
        ),
        ("p :- q.", ["-q"], "-q is the denial of q.* Write q"),
    ],
)
def test_what_has_no_meaning_is_refused(rules: str, opened: list[str], message: str) -> None:
    with pytest.raises(RuleError, match=message):
        RuleBook.parse(rules, open=opened)


def test_a_rule_file_opens_all_atoms_or_some_and_typos_are_named() -> None:
    raw: dict[str, Any] = {
        "concepts": {
            "pain": {"feature": 1, "threshold": 1},
            "-fit": {"feature": 2, "threshold": 1},
        },
        "rules": "ill :- pain, not fit.",
    }
    assert RuleBook.from_dict(raw | {"open": ["fit"]}).unknown(["pain"]) == {"fit", "-fit", "ill"}
    every = RuleBook.from_dict(raw | {"rules": "ill :- pain.", "open": True}).program.open
    assert [str(atom) for atom in every] == ["pain", "ill"]
    assert not RuleBook.from_dict(raw | {"rules": "ill :- pain.", "open": False}).program.open
    with pytest.raises(RuleError, match="open: pian is neither .*; did you mean 'pain'"):
        RuleBook.from_dict(raw | {"open": ["pian"]})
    for wrong in ("pain", {"pain": 1}):
        with pytest.raises(ConfigError, match="open is .*, expected true, false or a list"):
            RuleBook.from_dict(raw | {"open": wrong})
    with pytest.raises(ConfigError, match="open: 'Pain' can't be a name"):
        RuleBook.from_dict(raw | {"open": ["Pain"]})


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Model]) -> Model:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def sae(model: Model, tiny_sae: Callable[..., SAE]) -> SAE:
    return tiny_sae(model, "resid_post.1")


def _acting(**concepts: Any) -> dict[str, Any]:
    never, ever = {"feature": 1, "threshold": 1e9}, {"feature": 1, "threshold": -1}
    known = {"pain": ever, "casual": never, "-casual": never} | concepts
    acts = {"careful": {"report": "came up"}}
    return {"concepts": known, "rules": "careful :- pain, not casual.", "acts": acts}


def test_a_gate_stays_shut_while_its_head_is_unknown_and_says_so(model: Model, sae: SAE) -> None:
    ever = {"feature": 1, "threshold": -1}
    for raw, opened, reported in (
        (_acting(), False, True),
        (_acting(), ["casual"], False),
        (_acting(**{"-casual": ever}), ["casual"], True),
    ):
        book = RuleBook.from_dict(raw | {"open": opened})
        with book.plan(sae).on(model) as trace:
            model.generate("the rain", max_new_tokens=3)
        assert ("came up" in str(trace.events)) == reported
        assert ("careful is unknown" in str(trace.explain(token=-1))) == (not reported)


def test_a_reading_lists_what_is_unknown_and_forcing_settles_it(model: Model, sae: SAE) -> None:
    book = RuleBook.from_dict(_acting() | {"open": ["casual"]})
    reading = book.evaluate(model, sae, "the rain in the town")
    n = len(reading.tokens)
    everywhere = tuple(range(n))
    assert reading.unknown == dict.fromkeys(("casual", "-casual", "careful"), everywhere)
    assert "unknown  careful  0 " in str(reading)
    told = json.loads(json.dumps(reading.as_dict(), allow_nan=False))
    assert told["unknown"]["careful"] == list(everywhere)
    assert reading.proof("careful").unknown
    assert str(reading.why_not("careful")).startswith("careful is unknown, nearest by careful")
    off = book.evaluate(model, sae, "the rain in the town", force={"casual": False})
    assert off.holds["careful"] == off.holds["-casual"] == everywhere
    assert not off.unknown
    on = book.evaluate(model, sae, "the rain in the town", force={"casual": True})
    assert on.holds["careful"] == ()
    assert not on.unknown


def test_nothing_is_unknown_before_the_prompts_end_that_is_not_decided_there(
    model: Model, sae: SAE
) -> None:
    late = {"feature": 1, "threshold": 1e9, "aggregate": "prompt"}
    book = RuleBook.from_dict(_acting(casual=late) | {"open": ["casual"]})
    reading = book.evaluate(model, sae, "the rain in the town")
    last = len(reading.tokens) - 1
    assert reading.unknown == dict.fromkeys(("casual", "-casual", "careful"), (last,))
    assert "not decided before the prompt's end" in str(reading.proof("careful", 0))


def test_gates_of_open_and_closed_rules_do_not_share_an_evaluation(model: Model, sae: SAE) -> None:
    book = RuleBook.from_dict(_acting())
    closed = RuleGate.of(book, sae)
    opened = replace(closed, program=replace(closed.program, open=(Atom("casual"),)))
    readings = {sae.site: torch.zeros(1, 2, model.layout.width(sae.site))}
    frame = Frame.of(torch.tensor([[4, 5]]), torch.ones(1, 2))
    up = [gate.head("careful").open(readings, frame, None).all() for gate in (closed, opened)]
    assert up == [True, False]


def test_a_saved_plan_keeps_what_is_open(model: Model, sae: SAE, tmp_path: Path) -> None:
    from saesteer import Plan

    raw = _acting() | {"open": ["casual"], "acts": {"careful": {"clamp": 3, "value": 5.0}}}
    RuleBook.from_dict(raw).plan(sae).save(tmp_path / "plan")
    gate: Any = Plan.load(tmp_path / "plan").edits[0].gate
    assert gate.rules.program.open == (Atom("casual"),)
    assert isinstance(gate.rules.logic, OpenProgram)
