"""Random stratified programs with random facts: the tensor engine against clingo on every atom."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from random_programs import answer, layered, small

from saesteer.rules.compile import BooleanProgram, compile_program
from saesteer.rules.syntax import Atom, parse


def _check(seed: int) -> None:
    """One program, a batch of rows and positions; one of its rows through clingo."""
    rng = random.Random(seed)
    program = parse(small(rng))
    logic = compile_program(program, [Atom("stranger")])
    draw = torch.Generator().manual_seed(seed)
    mask = torch.rand(2, 3, len(logic.atoms), generator=draw) < rng.choice((0.1, 0.3, 0.6))
    closed, alarms = logic.settle(mask)
    other = replace(logic, dense=None).settle(mask)
    assert torch.equal(closed, other.atoms), seed
    assert torch.equal(alarms, other.alarms), seed
    by_tensors = logic.sliced.run_tensors(mask.flatten(0, 1))[:, : len(logic.atoms)]
    assert torch.equal(by_tensors.view_as(closed), closed), seed
    assert torch.equal(torch.cat([logic.run(mask[:, :2]), logic.run(mask[:, 2:])], 1), closed), seed
    row, pos = rng.randrange(2), rng.randrange(3)
    facts = [a for a, given in zip(logic.atoms, mask[row, pos].tolist(), strict=True) if given]
    expected, violated = answer(program, facts)
    assert _held(logic, closed[row, pos]) == expected, seed
    clashing = {str(rule): up for rule, up in zip(program.constraints(), violated, strict=True)}
    found = zip(logic.watched, alarms[row, pos].tolist(), strict=True)
    assert {str(rule): up for rule, up in found} == clashing, seed


def _held(logic: BooleanProgram, row: torch.Tensor) -> set[str]:
    return {a for a, held in zip(logic.atoms, row.tolist(), strict=True) if held}


@pytest.mark.parametrize("hundred", range(10))
def test_a_thousand_random_programs_equal_clingo(hundred: int) -> None:
    for seed in range(100 * hundred, 100 * hundred + 100):
        _check(seed)


@pytest.mark.full
@pytest.mark.parametrize("thousand", range(1, 10))
def test_ten_thousand_random_programs_equal_clingo(thousand: int) -> None:
    for seed in range(1000 * thousand, 1000 * thousand + 1000):
        _check(seed)


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_rules_equal_clingo(seed: int) -> None:
    program = parse(layered(seed))
    logic = compile_program(program, [Atom(f"c{i}") for i in range(256)])
    draw = torch.Generator().manual_seed(seed)
    mask = torch.zeros(70, 1, len(logic.atoms), dtype=torch.bool)
    mask[..., :256] = torch.rand(70, 1, 256, generator=draw) < 0.4
    closed = logic.run(mask)
    for row in (0, 33, 63, 64, 69):
        facts = [f"c{i}" for i in range(256) if mask[row, 0, i]]
        assert _held(logic, closed[row, 0]) == answer(program, facts)[0]
