"""Laws of compiled plans, run by test_compiled.py in an interpreter of its own.

The suite's shape checks wrap functions, and a graph can't hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from compiled_cases import LATER, LENGTHS, NAMES, SITE, plans, read, vector
from torch._dynamo.testing import CompileCounter

from saesteer import steer
from saesteer.models import Model
from saesteer.steer import Plan


@pytest.fixture(autouse=True)
def _nothing_compiled_yet() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(params=["llama", "gpt2"])
def model(tiny_model: Callable[[str], Model], request: pytest.FixtureRequest) -> Model:
    return tiny_model(request.param)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_equals_the_plan_itself(
    model: Model, tiny_sae: Callable[..., Any], name: str
) -> None:
    plan = plans(model, tiny_sae(model, LATER))[name]
    clean = read(model)
    with plan.on(model, prompt_lengths=LENGTHS):
        expected = read(model)
    counter = CompileCounter()
    with plan.compiled(model, LENGTHS) as steering:
        eager = read(model)
        forward = torch.compile(model.hf, fullgraph=True, backend=counter)
        compiled = read(model, forward)
        largest = expected.abs().max()
        assert (expected - clean).abs().max() > 1e-3 * largest
        assert (eager - expected).abs().max() <= 1e-5 * largest
        assert (compiled - expected).abs().max() <= 1e-5 * largest
        steering.set_strength(0)
        assert torch.equal(read(model, forward), clean)
        steering.set_strength(0.5 * plan.strength)
        half = read(model, forward)
    with (plan * 0.5).on(model, prompt_lengths=LENGTHS):
        assert (half - read(model)).abs().max() <= 1e-5 * largest
    assert counter.frame_count == 1


def test_turning_the_strength_and_the_prompts_compiles_nothing_again(model: Model) -> None:
    plan = Plan(steer.add(SITE, vector(model)))
    with plan.compiled(model, LENGTHS) as steering:
        forward = torch.compile(model.hf, fullgraph=True, backend="eager")
        first = read(model, forward)
        seen = []
        with torch.compiler.set_stance("fail_on_recompile"):
            for strength in (0.0, 0.25, -1.0, 1.0):
                steering.set_strength(strength)
                seen.append(read(model, forward))
            steering.set_prompt_lengths([1, 1])
            other = read(model, forward)
    assert torch.equal(seen[-1], first)
    assert len({float(logits.sum()) for logits in seen}) == 4
    assert not torch.equal(other, first)
    with plan.on(model, prompt_lengths=[1, 1]):
        assert (other - read(model)).abs().max() <= 1e-5 * other.abs().max()


def test_removing_leaves_no_hook_and_stills_compiled_code(model: Model) -> None:
    clean = read(model)
    n_hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules())
    steering = Plan(steer.add(SITE, vector(model))).compiled(model, LENGTHS)
    forward = torch.compile(model.hf, fullgraph=True, backend="eager")
    assert not torch.equal(read(model, forward), clean)
    steering.remove()
    after = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules())
    assert after == n_hooks
    assert torch.equal(read(model, forward), clean)
    assert torch.equal(read(model), clean)
