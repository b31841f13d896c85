"""What a plan makes of a call of `generate`, and what it leaves of the caller's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from saesteer import steer
from saesteer.errors import PlanError
from saesteer.models import Model
from saesteer.steer import Plan
from saesteer.steer.calls import read_prompt

IDS = torch.tensor([[5, 6, 7, 8]])
ADD = steer.add("resid_post.1", torch.ones(32))


@pytest.fixture
def model(tiny_model: Callable[[str], Model]) -> Model:
    return tiny_model("llama")


@pytest.mark.parametrize("by", ["name", "config"])
def test_generate_never_compiles_under_a_plan_and_a_given_config_stays(
    model: Model, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, got = model.hf.generate, {}

    def generate(*args: Any, **kwargs: Any) -> Any:
        got.update(kwargs)
        return own(*args, **kwargs)

    monkeypatch.setitem(model.hf.__dict__, "generate", generate)
    settings = {"max_new_tokens": 1, "pad_token_id": 0}
    config = transformers.GenerationConfig(**settings)
    with Plan(ADD).on(model):
        if by == "name":
            model.hf.generate(IDS, **settings)
        else:
            model.hf.generate(IDS, generation_config=config)
    if by == "name":
        assert got["disable_compile"] is True
    else:
        assert got["generation_config"].disable_compile is True
        assert got["generation_config"] is not config
    assert not config.disable_compile


@pytest.mark.parametrize(("pad", "length"), [(2, 5), (0, 4)])
def test_padding_is_inferred_as_generate_infers_it(model: Model, pad: int, length: int) -> None:
    """Not where the pad token may be a real end of a message in the middle of the prompt."""
    ids = torch.tensor([[pad, 5, 2, 6, 7]])
    prompt = read_prompt(model.hf, (ids,), {"eos_token_id": 2, "pad_token_id": pad})
    assert prompt.lengths.tolist() == [length]


def test_prompt_lengths_go_with_the_plan_that_they_came_with(model: Model) -> None:
    with Plan(ADD).on(model):
        with Plan(ADD).on(model, prompt_lengths=2):
            model.hf(IDS)
        with pytest.raises(PlanError, match="where the prompt ends"):
            model.hf(IDS)
