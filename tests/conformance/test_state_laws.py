"""What a gate remembers belongs to a text, wherever that text's cache goes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from laws import CACHE, PROMPTS, direction, generate, latch_plan, same, token_plan
from torch import Tensor
from transformers import DynamicCache

from saesteer import steer
from saesteer.errors import PlanError
from saesteer.models import Model
from saesteer.steer import Plan


@pytest.fixture(params=("llama", "gpt2", "gemma3"))
def model(request: pytest.FixtureRequest, tiny_model: Any) -> Model:
    """One tiny model per architecture."""
    return tiny_model(request.param)


def more(model: Model, ids: Tensor, cache: Any, new: int = 6) -> Tensor:
    """Continue `ids`, all of it given, on top of what the cache holds."""
    return model.hf.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **{CACHE: cache},
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )


def cache_for(model: Model) -> DynamicCache:
    return DynamicCache(config=model.hf.config)


KEY = 44
FIRST = torch.tensor([[1, 50, KEY, 51, 52, 60]])  # opens the latch in its first turn
PLAIN = torch.tensor([[1, 50, 45, 51, 52, 60]])  # does not
TAIL = torch.tensor([[70, 71, 72]])


def test_the_latch_matters(model: Model) -> None:
    """Else none of the laws below could fail."""
    plan = token_plan(model, KEY)
    for text, acts in ((FIRST, True), (PLAIN, False)):
        with plan.on(model) as trace:
            steered = more(model, torch.cat([text, TAIL], 1), cache_for(model))
        plain = more(model, torch.cat([text, TAIL], 1), cache_for(model))
        assert torch.equal(steered, plain) != acts
        assert (trace.n_edited > 0) == acts


def test_a_continued_cache_equals_the_whole_text(model: Model) -> None:
    with token_plan(model, KEY).on(model):
        cache = cache_for(model)
        turn = torch.cat([more(model, FIRST, cache), TAIL], 1)
        assert torch.equal(more(model, turn, cache), more(model, turn, cache_for(model)))


def test_conversations_may_take_turns(model: Model) -> None:
    with token_plan(model, KEY).on(model):
        caches = [cache_for(model), cache_for(model)]
        turns = [more(model, t, c) for t, c in zip((FIRST, PLAIN), caches, strict=True)]
        turns = [torch.cat([turn, TAIL], 1) for turn in turns]
        mixed = [more(model, t, c) for t, c in zip(turns, caches, strict=True)]
        for text, got in zip(turns, mixed, strict=True):
            assert torch.equal(got, more(model, text, cache_for(model)))


def test_a_copied_prefix_carries_its_state(model: Model) -> None:
    with token_plan(model, KEY).on(model):
        shared = cache_for(model)
        with torch.no_grad():
            model.hf(input_ids=FIRST, **{CACHE: shared}, use_cache=True)
        for tail in (TAIL, TAIL + 9):
            text = torch.cat([FIRST, tail], 1)
            copied = more(model, text, deepcopy(shared))
            assert torch.equal(copied, more(model, text, cache_for(model)))


def test_copies_of_a_prefix_remember_each_for_itself(model: Model) -> None:
    """A latch that one of them opens stays open there and shut in the other."""
    tails = (torch.cat([torch.full((1, 1), KEY), TAIL], 1), torch.cat([TAIL + 9, TAIL], 1))
    with token_plan(model, KEY).on(model):
        shared = cache_for(model)
        with torch.no_grad():
            model.hf(input_ids=PLAIN, **{CACHE: shared}, use_cache=True)
        caches = [deepcopy(shared), deepcopy(shared)]
        turns = [torch.cat([PLAIN, tail], 1) for tail in tails]
        for _ in range(2):
            said = [more(model, t, c) for t, c in zip(turns, caches, strict=True)]
            for text, got in zip(turns, said, strict=True):
                assert torch.equal(got, more(model, text, cache_for(model)))
            turns = [torch.cat([text, TAIL], 1) for text in said]


def test_a_prefix_expanded_to_a_batch_carries_its_state(model: Model) -> None:
    prefix = torch.cat([FIRST, PLAIN])
    tails = torch.cat([TAIL, TAIL, TAIL + 9, TAIL + 9])
    text = torch.cat([prefix.repeat_interleave(2, 0), tails], 1)
    with token_plan(model, KEY).on(model):
        shared = cache_for(model)
        with torch.no_grad():
            model.hf(input_ids=prefix, **{CACHE: shared}, use_cache=True)
        shared.batch_repeat_interleave(2)
        wide = more(model, text, shared)
        assert torch.equal(wide, more(model, text, cache_for(model)))
        rows = torch.tensor([3, 0])
        shared.batch_select_indices(rows)
        turn = torch.cat([wide[rows], TAIL.expand(2, -1)], 1)
        assert torch.equal(more(model, turn, shared), more(model, turn, cache_for(model)))


def test_a_cache_that_the_model_makes_itself_is_followed(model: Model) -> None:
    ids = torch.cat([FIRST, TAIL, TAIL], 1)
    with token_plan(model, KEY).on(model), torch.no_grad():
        whole = model.hf(input_ids=ids, use_cache=False).logits
        first = model.hf(input_ids=ids[:, :7], use_cache=True)
        rest = model.hf(input_ids=ids[:, 7:], **{CACHE: first[CACHE]})
    parts = torch.cat([first.logits, rest.logits], 1)
    assert (parts - whole).abs().max() <= 1e-5 * whole.abs().max()


def test_caches_are_left_as_they_were(model: Model) -> None:
    cache = cache_for(model)
    ours = ("_saesteer_states", "reorder_cache", "batch_select_indices", "batch_repeat_interleave")
    with latch_plan(model).on(model):
        more(model, FIRST, cache)
        assert all(name in cache.__dict__ for name in ours)
    assert not any(name in cache.__dict__ for name in ours)


def test_one_text_leaves_nothing_for_the_next(model: Model) -> None:
    with latch_plan(model).on(model):
        first = generate(model, PROMPTS)
        generate(model, ["something else ~~~"])
        same(first, generate(model, PROMPTS), tolerance=0)


def test_finished_rows_are_out_of_the_trace(model: Model) -> None:
    where = steer.generated(special=True)
    plan = Plan(steer.add("resid_post.2", direction(model, 1)), where=where)
    with plan.on(model) as trace:
        tokens = generate(model, PROMPTS[:2], new=6).tokens
    free = trace.n_edited
    assert free == 2 * 6
    stop = int(tokens[0, 1])
    with plan.on(model) as trace:
        again = generate(model, PROMPTS[:2], new=6, eos_token_id=stop).tokens
    ended = [row.tolist().index(stop) + 1 if stop in row else len(row) for row in again]
    assert min(ended) < 6
    assert trace.n_edited == sum(ended)


def test_packed_rows_are_refused(model: Model) -> None:
    plan = Plan(steer.add("resid_post.2", direction(model, 1)), where=steer.all())
    ids = torch.tensor([[5, 6, 7, 8]])
    with plan.on(model), pytest.raises(PlanError, match="packed"):
        model.hf(input_ids=ids, position_ids=torch.tensor([[0, 1, 0, 1]]))
    with plan.on(model), pytest.raises(PlanError, match="guidance"):
        generate(model, ["hello"], guidance_scale=1.5)
    before = sorted(model.hf.__dict__)
    with plan.on(model), pytest.raises(PlanError, match=r"continuous batching.*call generate"):
        model.hf.generate_batch(inputs=ids.tolist())
    assert sorted(model.hf.__dict__) == before
