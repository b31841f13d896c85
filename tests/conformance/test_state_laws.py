"""What a gate remembers belongs to a text, wherever that text's cache goes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from laws import PROMPTS, direction, generate, latch_plan, same
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
        past_key_values=cache,
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )


def ids_of(model: Model, text: str) -> Tensor:
    return model.tokenize(text).input_ids


def plans(model: Model) -> list[Plan]:
    return [latch_plan(model), Plan(steer.add("resid_post.2", 8 * direction(model, 1)))]


def test_a_continued_cache_equals_the_whole_text(model: Model) -> None:
    text = ids_of(model, "the first turn of a talk")
    for plan in plans(model):
        with plan.on(model):
            cache = DynamicCache(config=model.hf.config)
            first = more(model, text, cache)
            turn = torch.cat([first, ids_of(model, " and more")[:, 1:]], 1)
            fresh = more(model, turn, DynamicCache(config=model.hf.config))
            again = more(model, turn, cache)
        if plan.edits[0].gate.sites:  # the latch acts wherever it is open, on old turns as well
            assert torch.equal(again, fresh)
        assert again.shape == fresh.shape


def test_conversations_may_take_turns(model: Model) -> None:
    texts = [ids_of(model, t) for t in ("one talk about tea", "something else: ~~~")]
    with latch_plan(model).on(model):
        alone = []
        for text in texts:
            cache = DynamicCache(config=model.hf.config)
            alone.append(more(model, more(model, text, cache), cache))
        caches = [DynamicCache(config=model.hf.config) for _ in texts]
        turns = [more(model, t, c) for t, c in zip(texts, caches, strict=True)]
        mixed = [more(model, t, c) for t, c in zip(turns, caches, strict=True)]
    for a, b in zip(alone, mixed, strict=True):
        assert torch.equal(a, b)


def test_a_copied_prefix_carries_its_state(model: Model) -> None:
    prefix = ids_of(model, "a shared beginning, ")
    with latch_plan(model).on(model):
        shared = DynamicCache(config=model.hf.config)
        with torch.no_grad():
            model.hf(input_ids=prefix, past_key_values=shared, use_cache=True)
        for tail in ("and then", "but not ~"):
            text = torch.cat([prefix, ids_of(model, tail)[:, 1:]], 1)
            copied = more(model, text, deepcopy(shared))
            assert torch.equal(copied, more(model, text, DynamicCache(config=model.hf.config)))


def test_a_prefix_expanded_to_a_batch_carries_its_state(model: Model) -> None:
    prefix = ids_of(model, "a shared beginning, ")
    tails = torch.tensor([[44, 45, 46, 47], [99, 99, 12, 99]])
    text = torch.cat([prefix.expand(2, -1), tails], 1)
    with latch_plan(model).on(model):
        shared = DynamicCache(config=model.hf.config)
        with torch.no_grad():
            model.hf(input_ids=prefix, past_key_values=shared, use_cache=True)
        shared.batch_repeat_interleave(2)
        wide = more(model, text, shared)
        fresh = more(model, text, DynamicCache(config=model.hf.config))
        shared.batch_select_indices(torch.tensor([1]))
        one = more(model, wide[1, None], shared)
        assert torch.equal(one, more(model, wide[1, None], DynamicCache(config=model.hf.config)))
    assert torch.equal(wide, fresh)


def test_a_cache_that_the_model_makes_itself_is_followed(model: Model) -> None:
    ids = ids_of(model, "step by step it goes")
    with latch_plan(model).on(model), torch.no_grad():
        whole = model.hf(input_ids=ids, use_cache=False).logits
        first = model.hf(input_ids=ids[:, :7], use_cache=True)
        rest = model.hf(input_ids=ids[:, 7:], past_key_values=first.past_key_values)
    parts = torch.cat([first.logits, rest.logits], 1)
    assert (parts - whole).abs().max() <= 1e-5 * whole.abs().max()


def test_caches_are_left_as_they_were(model: Model) -> None:
    cache = DynamicCache(config=model.hf.config)
    ours = ("_saesteer_states", "reorder_cache", "batch_select_indices", "batch_repeat_interleave")
    with latch_plan(model).on(model):
        more(model, ids_of(model, "some text"), cache)
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
