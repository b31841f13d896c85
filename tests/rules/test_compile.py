"""The three forms of a program: equal to forward chaining and each other at every size."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saesteer.errors import RuleError
from saesteer.rules import RuleBook
from saesteer.rules.compile import BooleanProgram, compile_program
from saesteer.rules.dense import DenseProgram
from saesteer.rules.levels import MAX_BODIES, MAX_LITERALS
from saesteer.rules.proof import closure
from saesteer.rules.sliced import SlicedProgram, pack, unpack
from saesteer.rules.syntax import Atom, parse

FORMS = ("plain", "dense", "sliced")


def _only(logic: BooleanProgram, form: str) -> BooleanProgram:
    """The program with one of its forms alone."""
    match form:
        case "plain":
            assert logic.plain is not None
            return replace(logic, plain=replace(logic.plain, work=0))
        case "dense":
            return replace(logic, work=0, plain=None)
        case _:
            return replace(logic, dense=None, plain=None)


def _wide(rng: random.Random, n_bodies: int, n_literals: int) -> str:
    """One head of many bodies, each of many literals, and a rule that denies it."""
    lines = []
    for _ in range(n_bodies):
        body = [f"c{rng.randrange(6)}" for _ in range(rng.randint(1, n_literals))]
        signs = {atom: rng.choice(["", "", "not "]) for atom in body}
        lines.append(f"wide :- {', '.join(signs[atom] + atom for atom in body)}.")
    return "\n".join([*lines, "narrow :- not wide, c0.", ":- wide, narrow.", ":- narrow, c1."])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n_bodies", [1, MAX_BODIES, MAX_BODIES + 1, MAX_BODIES**2 + 5])
@pytest.mark.parametrize("n_literals", [1, MAX_LITERALS, 3 * MAX_LITERALS])
def test_all_forms_equal_forward_chaining_for_wide_rules(
    monkeypatch: pytest.MonkeyPatch, form: str, n_bodies: int, n_literals: int
) -> None:
    monkeypatch.setattr("saesteer.rules.compile.PLAIN_WORK", 10**6)
    rng = random.Random(n_bodies * 100 + n_literals)
    program = parse(_wide(rng, n_bodies, n_literals))
    logic = _only(compile_program(program, [Atom(f"c{i}") for i in range(6)]), form)
    facts = torch.tensor([[[bool(r >> i & 1) for i in range(6)]] for r in range(64)])
    mask = torch.zeros(64, 1, len(logic.atoms), dtype=torch.bool)
    mask[..., :6] = facts
    closed, alarms = logic.settle(mask)
    by_tensors = logic.sliced.run_tensors(mask[:, 0])[:, : len(logic.atoms)]
    assert torch.equal(by_tensors, closed[:, 0])
    for row in range(64):
        given_ = [Atom(f"c{i}") for i in range(6) if facts[row, 0, i]]
        came = set(map(str, closure(program, given_)))
        names = {a for a, held in zip(logic.atoms, closed[row, 0].tolist(), strict=True) if held}
        assert names == came
        clash = "narrow" in came and "c1" in came
        assert alarms[row, 0].tolist() == [{"wide", "narrow"} <= came, clash]


def test_a_split_inside_a_positive_cycle_still_reaches_the_fixpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("saesteer.rules.compile.PLAIN_WORK", 10**6)
    ring = [f"a{i} :- a{i + 1}." for i in range(9)]
    long = ", ".join(["a0", *(f"c{i}" for i in range(20))])
    many = [f"a4 :- d{i}, a0." for i in range(40)]
    program = parse("\n".join([*ring, f"a9 :- {long}.", *many, "a0 :- start."]))
    for form in FORMS:
        logic = _only(compile_program(program), form)
        mask = torch.zeros(1, 1, len(logic.atoms), dtype=torch.bool)
        for name in ["start", *(f"c{i}" for i in range(20))]:
            mask[..., logic.atoms.index(name)] = True
        held = dict(zip(logic.atoms, logic.run(mask)[0, 0].tolist(), strict=True))
        assert all(held[f"a{i}"] for i in range(10)), form


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 200), st.integers(1, 30), st.integers(0, 10**6))
def test_packing_into_words_loses_nothing(n_rows: int, n: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    facts = torch.rand(n_rows, n, generator=draw) < 0.5
    bits = SlicedProgram.of((), n).bits
    assert torch.equal(unpack(pack(facts, n), bits)[:n_rows, :n], facts)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (65, 1), (7, 19)])
def test_any_number_of_rows_and_positions_is_taken(shape: tuple[int, int]) -> None:
    logic = RuleBook.parse("b :- not a. c :- b, d.").compile()
    for form in FORMS:
        mask = torch.rand(*shape, len(logic.atoms)) < 0.5
        closed = _only(logic, form).run(mask)
        assert closed.shape == mask.shape
        held = dict(zip(logic.atoms, closed.unbind(-1), strict=True))
        given_ = dict(zip(logic.atoms, mask.unbind(-1), strict=True))
        assert torch.equal(held["b"], given_["b"] | ~held["a"])
        assert torch.equal(held["c"], given_["c"] | (held["b"] & held["d"]))


def test_the_form_is_chosen_by_the_amount_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    logic = RuleBook.parse("b :- a.").compile()
    asked: list[int] = []
    real = SlicedProgram.run
    monkeypatch.setattr(SlicedProgram, "run", lambda s, f: (asked.append(len(f)), real(s, f))[1])
    logic.run(torch.zeros(4, 1, 2, dtype=torch.bool))
    assert asked == []
    logic.run(torch.zeros(300_000, 1, 2, dtype=torch.bool))
    assert asked == [300_000]


def test_a_step_of_a_few_rows_needs_no_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    logic = RuleBook.parse("b :- not a. c :- b.").compile()
    monkeypatch.setattr(DenseProgram, "run", lambda *_: pytest.fail("matrix products"))
    names = [f"{a}" for a in logic.atoms]
    closed = logic.run(torch.tensor([[[True, False, False]], [[False] * 3]]))
    assert closed[:, 0, names.index("c")].tolist() == [False, True]
    with pytest.raises(pytest.fail.Exception, match="matrix products"):
        logic.run(torch.zeros(1_000, 1, 3, dtype=torch.bool))


def test_a_mask_of_another_width_is_refused() -> None:
    with pytest.raises(RuleError, match="mask with 3 columns for a program of 2 atoms"):
        RuleBook.parse("b :- a.").compile().run(torch.zeros(1, 1, 3, dtype=torch.bool))


def test_a_cycle_through_a_wide_head_is_named_as_it_was_written() -> None:
    bodies = "\n".join(f"a :- c{i}." for i in range(40))
    with pytest.raises(RuleError, match="line 41: cycle through negation: a needs not a"):
        compile_program(parse(f"{bodies}\na :- not a."))


def test_a_program_goes_to_another_device_whole() -> None:
    sliced = RuleBook.parse("b :- not a. c :- b, d.").compile().to("meta").sliced
    tensors = [sliced.bits, sliced.columns, sliced.rows, *(each.literals for each in sliced.levels)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.parametrize("form", ["run", "run_tensors"])
def test_a_program_of_nothing_is_run(form: str) -> None:
    nothing = torch.zeros(3, 0, dtype=torch.bool)
    assert getattr(SlicedProgram.of((), 0), form)(nothing).shape == (3, 0)
