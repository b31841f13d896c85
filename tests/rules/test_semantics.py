"""What rules mean: tensor program, forward chaining and proofs against clingo, and their laws."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import answer

from saesteer.rules import Proof, RuleBook
from saesteer.rules.compile import BooleanProgram, compile_program
from saesteer.rules.proof import closure, prove
from saesteer.rules.syntax import Atom, Program, Rule, parse

N_ATOMS = 8
NAMES = [f"{'-' * (i in (3, 6))}a{i}" for i in range(N_ATOMS)]
LAYER = [0, 0, 0, 1, 1, 1, 2, 2]
"""`not` in a body may reach into lower layers only."""


@st.composite
def stratified(draw: st.DrawFn) -> str:
    """Rules whose `not` reaches into lower layers only; positive cycles inside a layer occur."""
    statements: list[str] = []
    for _ in range(draw(st.integers(0, 14))):
        head = draw(st.integers(0, N_ATOMS - 1))
        body: list[str] = []
        for nots in draw(st.lists(st.sampled_from([0, 0, 1, 2]), max_size=3)):
            below = [i for i in range(N_ATOMS) if LAYER[i] < LAYER[head] + (nots == 0)]
            if below:
                body.append("not " * nots + NAMES[draw(st.sampled_from(below))])
        statements.append(NAMES[head] + " :- " * bool(body) + ", ".join(body) + ".")
    if draw(st.booleans()):
        watched = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3))
        statements.append(f":- {', '.join('not ' * (i % 3) + a for i, a in enumerate(watched))}.")
    return "\n".join(statements)


ROWS = st.lists(st.sets(st.sampled_from(NAMES), max_size=4), min_size=5, max_size=5)


def _atoms(names: Iterable[str] = NAMES) -> list[Atom]:
    return [Atom.parse(name) for name in names]


def _mask(rows: Sequence[set[str]], atoms: Sequence[str]) -> torch.Tensor:
    return torch.tensor([[[atom in row for atom in atoms]] for row in rows])


def _names(logic: BooleanProgram, closed: torch.Tensor, row: int) -> set[str]:
    return {a for a, held in zip(logic.atoms, closed[row, 0].tolist(), strict=True) if held}


@settings(deadline=None, max_examples=200)
@given(stratified(), ROWS)
def test_tensor_program_equals_clingo_on_every_atom_of_every_row(
    text: str, rows: list[set[str]]
) -> None:
    program = parse(text)
    logic = compile_program(program, _atoms())
    closed = logic.run(_mask(rows, logic.atoms))
    alarms = logic.alarms(closed)
    for row, facts in enumerate(rows):
        expected, violated = answer(program, sorted(facts))
        assert _names(logic, closed, row) == expected
        assert alarms[row, 0].tolist() == violated


@settings(deadline=None, max_examples=100)
@given(stratified(), ROWS)
def test_every_conclusion_has_a_proof_that_can_be_checked(text: str, rows: list[set[str]]) -> None:
    program = parse(text)
    logic = compile_program(program, _atoms())
    closed = logic.run(_mask(rows, logic.atoms))
    for row, facts in enumerate(rows):
        came = closure(program, _atoms(facts))
        held = _names(logic, closed, row)
        assert set(map(str, came)) == held
        for name in NAMES:
            proof = prove(program, came, Atom.parse(name))
            assert proof.holds == (name in held)
            _check(proof, program, facts, held)


def _check(proof: Proof, program: Program, facts: set[str], held: set[str]) -> None:
    """Each step follows from its children by a rule of the program, or rests on a fact."""
    atom = proof.literal.split()[-1]
    nots = proof.literal.count("not ")
    assert proof.holds == ((atom in held) != (nots == 1))
    if proof.rule is not None:
        assert proof.rule in program.rules
        assert str(proof.rule.head) == atom
        assert [child.literal for child in proof.children] == [str(b) for b in proof.rule.body]
        assert all(child.holds for child in proof.children)
    elif atom in held:
        assert atom in facts
    else:
        assert atom not in facts
        assert not any(child.holds for child in proof.children)
    for child in proof.children:
        _check(child, program, facts, held)


@settings(deadline=None, max_examples=50)
@given(stratified(), ROWS, st.randoms(use_true_random=False))
def test_order_of_rules_and_of_bodies_never_matters(
    text: str, rows: list[set[str]], shuffle: random.Random
) -> None:
    rules = parse(text).rules
    mixed = [
        Rule(rule.head, tuple(shuffle.sample(rule.body, len(rule.body))))
        for rule in shuffle.sample(rules, len(rules))
    ]
    one = compile_program(parse(text), _atoms())
    other = compile_program(Program(tuple(mixed)), _atoms())
    mask = _mask(rows, one.atoms)
    assert torch.equal(one.run(mask), other.run(mask))


@settings(deadline=None, max_examples=50)
@given(stratified(), ROWS)
def test_rows_and_positions_do_not_see_each_other(text: str, rows: list[set[str]]) -> None:
    logic = compile_program(parse(text), _atoms())
    mask = _mask(rows, logic.atoms)
    together, along = logic.run(mask), logic.run(mask.transpose(0, 1))
    alone = torch.cat([logic.run(mask[row : row + 1]) for row in range(len(rows))])
    assert torch.equal(together, alone)
    assert torch.equal(along.transpose(0, 1), together)


@settings(deadline=None, max_examples=50)
@given(stratified(), ROWS)
def test_a_fact_that_no_rule_mentions_changes_nothing(text: str, rows: list[set[str]]) -> None:
    logic = compile_program(parse(text), [Atom("stranger"), *_atoms()])
    mask = _mask(rows, logic.atoms)
    with_it = mask.clone()
    with_it[..., 0] = True
    assert torch.equal(logic.run(mask)[..., 1:], logic.run(with_it)[..., 1:])


def test_not_not_r_equals_r() -> None:
    book = RuleBook.parse("x :- not not r. y :- r. z :- not r.")
    assert book.closure({"r"}) == {"r", "x", "y"}
    assert book.closure(set()) == {"z"}


def test_run_leaves_its_input_alone_and_keeps_the_shape() -> None:
    logic = RuleBook.parse("b :- a.").compile()
    mask = torch.zeros(2, 3, len(logic.atoms), dtype=torch.bool)
    mask[1, 2, logic.atoms.index("a")] = True
    before = mask.clone()
    closed = logic.run(mask)
    assert closed.shape == mask.shape
    assert torch.equal(mask, before)
    assert closed.nonzero().tolist() == [[1, 2, 0], [1, 2, 1]]
    assert logic.alarms(closed).shape == (2, 3, 0)


def test_an_empty_program_gives_back_its_facts() -> None:
    logic = compile_program(Program(()), [Atom("a")])
    mask = torch.tensor([[[True], [False]]])
    assert torch.equal(logic.run(mask), mask)


def test_facts_hold_everywhere_and_a_head_may_have_many_bodies() -> None:
    assert RuleBook.parse("always. x :- always, a. x :- b.").closure({"b"}) == {"always", "b", "x"}


def test_a_proof_prints_as_a_tree() -> None:
    book = RuleBook.parse("x :- a, not y.\ny :- b, c.\ny :- d.\nz :- x, a.")
    proof = book.prove("z", {"a", "c"})
    assert str(proof).split("\n") == [
        "z holds: z :- x, a.  (line 4)",
        "├─ x holds: x :- a, not y.  (line 1)",
        "│  ├─ a holds: given",
        "│  └─ not y holds: no rule for it holds",
        "│     ├─ b does not hold: not given",
        "│     └─ d does not hold: not given",
        "└─ a holds: given",
    ]
    assert book.prove("z", {"a", "d"}) is None


def test_a_proof_through_a_positive_cycle_is_well_founded() -> None:
    book = RuleBook.parse("a :- b. b :- a. a :- x. c :- not a.")
    assert str(book.prove("b", {"x"})) == (
        "b holds: b :- a.  (line 1)\n└─ a holds: a :- x.  (line 1)\n   └─ x holds: given"
    )
    assert "a would have to support itself" in str(book.prove("c", set()))


def test_a_proof_is_json() -> None:
    proof = RuleBook.parse("x :- a.").prove("x", {"a"})
    assert proof is not None
    assert proof.as_dict() == {
        "literal": "x",
        "holds": True,
        "rule": "x :- a.",
        "line": 1,
        "because": [{"literal": "a", "holds": True, "note": "given", "because": []}],
    }
