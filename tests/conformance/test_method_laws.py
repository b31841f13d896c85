"""Whatever a method fits, its plan is the same act however the text is decoded, saved or undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from laws import PROMPTS, Run, generate, same, state
from method_cases import CASES, fitted, grid, is_fast
from torch import Tensor

from saesteer.errors import PlanError
from saesteer.models import Model
from saesteer.steer import Plan

NEW = 5
MOVES = 1e-3
"""Of the largest logit: what a plan must move for equality within 1e-5 to mean anything."""


class Case(NamedTuple):
    """A fitted plan with its model, and what the model says with and without it."""

    model: Model
    plan: Plan
    plain: Run
    steered: Run


def cases(names: Sequence[str] = tuple(CASES)) -> list[Any]:
    """Methods on architectures; those that are slow to add up are left to the full run."""
    return [
        pytest.param((n, a), id=f"{n}-{a}", marks=() if is_fast(n, a) else pytest.mark.full)
        for n, a in grid()
        if n in names
    ]


@pytest.fixture(scope="module", params=cases())
def case(request: pytest.FixtureRequest, tiny_model: Any, tiny_sae: Any) -> Case:
    """One method on one architecture."""
    name, arch = request.param
    model = tiny_model(arch)
    plan = fitted(name, model, tiny_sae)
    plain = generate(model, PROMPTS, new=NEW)
    with plan.on(model):
        return Case(model, plan, plain, generate(model, PROMPTS, new=NEW))


def moved(a: Tensor, b: Tensor) -> float:
    """Largest change of a logit, as a share of the largest logit."""
    return float((a - b).abs().max() / b.abs().max())


def test_it_moves_logits_a_hundred_times_the_tolerance(case: Case) -> None:
    assert moved(case.steered.logits, case.plain.logits) > MOVES


def test_the_first_generated_token_is_steered(case: Case) -> None:
    assert moved(case.steered.logits[:, 0], case.plain.logits[:, 0]) > MOVES


@pytest.mark.parametrize("case", cases(["CAST", "CAST-last"]), indirect=True)
def test_a_condition_is_each_rows_own(case: Case) -> None:
    with case.plan.on(case.model) as trace:
        generate(case.model, PROMPTS, new=NEW)
    rows = trace.passes[-1].evidence[0].open.flatten().tolist()
    assert rows[1]
    assert not all(rows)


def test_cached_equals_uncached(case: Case) -> None:
    with case.plan.on(case.model):
        same(case.steered, generate(case.model, PROMPTS, new=NEW, use_cache=False))


def test_a_left_padded_batch_equals_its_rows_alone(case: Case) -> None:
    with case.plan.on(case.model):
        for row, prompt in enumerate(PROMPTS):
            whole = Run(case.steered.tokens[row, None], case.steered.logits[row, None])
            same(whole, generate(case.model, [prompt], new=NEW))


def test_chunked_prefill_equals_the_plain_one(case: Case) -> None:
    with case.plan.on(case.model):
        same(case.steered, generate(case.model, PROMPTS, new=NEW, prefill_chunk_size=3))


def test_no_strength_is_no_plan_bit_for_bit(case: Case) -> None:
    with (case.plan * 0.0).on(case.model) as trace:
        nothing = generate(case.model, PROMPTS, new=NEW)
    same(case.plain, nothing, tolerance=0)
    assert trace.n_positions == 0


def test_nothing_stays_after_an_exception(case: Case) -> None:
    before = state(case.model)

    def fail(_ids: Any, _scores: Any) -> Any:
        assert state(case.model) != before
        raise KeyError

    with pytest.raises(KeyError), case.plan.on(case.model):
        generate(case.model, PROMPTS, new=NEW, logits_processor=[fail])
    assert state(case.model) == before
    same(case.plain, generate(case.model, PROMPTS, new=NEW), tolerance=0)


def test_a_saved_plan_is_the_same_plan(case: Case, tmp_path: Path) -> None:
    case.plan.save(tmp_path / "plan", case.model)
    loaded = Plan.load(tmp_path / "plan", case.model)
    assert alike(loaded.acts, case.plan.acts)
    with loaded.on(case.model):
        same(case.steered, generate(case.model, PROMPTS, new=NEW), tolerance=0)


def test_sampling_and_beams_don_t_ask_whether_there_is_a_cache(case: Case) -> None:
    ways = (
        {"do_sample": True, "temperature": 1.5, "top_k": 0},
        {"num_beams": 3, "num_return_sequences": 2},
    )
    if case.plan.controls:  # they own the loop, and say so
        with case.plan.on(case.model), pytest.raises(PlanError, match="beam search"):
            generate(case.model, PROMPTS, new=NEW, **ways[1])
        ways = ways[:1]
    with case.plan.on(case.model):
        for options in ways:
            found = []
            for cached in (True, False):
                torch.manual_seed(3)
                run = generate(case.model, PROMPTS, new=3, use_cache=cached, **options)
                found.append(run.tokens)
            assert torch.equal(*found)


def alike(a: Any, b: Any) -> bool:
    """Equal to the last bit, through tuples and dataclasses."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if is_dataclass(a):
        names = [field.name for field in fields(a) if field.init]
        return type(a) is type(b) and all(alike(getattr(a, n), getattr(b, n)) for n in names)
    return a == b
