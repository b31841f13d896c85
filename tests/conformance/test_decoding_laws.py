"""However a text is decoded (cached, padded, in chunks, by beams), the plan does the same to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from laws import PROMPTS, Run, arches, direction, generate, latch_plan, same

from saesteer import steer
from saesteer.models import Model
from saesteer.steer import Plan

PlanFor = Callable[[Model], Plan]


@pytest.fixture(params=arches())
def model(request: pytest.FixtureRequest, tiny_model: Any) -> Model:
    """One tiny model per architecture."""
    return tiny_model(request.param)


def test_the_plans_do_something(model: Model, plan_for: PlanFor) -> None:
    plain = generate(model, PROMPTS)
    with plan_for(model).on(model) as trace:
        steered = generate(model, PROMPTS)
    assert (steered.logits - plain.logits).abs().amax((-1, -2)).gt(1e-2).any()
    assert 0 < trace.n_edited <= trace.n_positions


def test_cached_equals_uncached(model: Model, plan_for: PlanFor) -> None:
    with plan_for(model).on(model):
        same(generate(model, PROMPTS), generate(model, PROMPTS, use_cache=False))


def test_a_batch_equals_its_rows_alone(model: Model, plan_for: PlanFor) -> None:
    with plan_for(model).on(model):
        whole = generate(model, PROMPTS)
        for row, prompt in enumerate(PROMPTS):
            same(Run(whole.tokens[row, None], whole.logits[row, None]), generate(model, [prompt]))


def test_left_padding_changes_nothing(model: Model, plan_for: PlanFor) -> None:
    batch = model.tokenize([PROMPTS[0]])
    pad = torch.zeros(1, 5, dtype=torch.long)
    padded = {
        "input_ids": torch.cat([pad, batch.input_ids], 1),
        "attention_mask": torch.cat([pad, batch.attention_mask.long()], 1),
    }
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with plan_for(model).on(model):
        plain = model.hf.generate(input_ids=batch.input_ids, **options)
        with_pad = model.hf.generate(**padded, **options)
        inferred = model.hf.generate(
            input_ids=padded["input_ids"], max_new_tokens=8, do_sample=False
        )
    assert torch.equal(plain, with_pad[:, 5:])
    shared = min(inferred.shape[1] - 5, plain.shape[1])
    assert torch.equal(plain[:, :shared], inferred[:, 5:][:, :shared])


@pytest.mark.parametrize(
    "options",
    [{"prefill_chunk_size": 3}, {"cache_implementation": "static"}],
    ids=["chunked", "static"],
)
def test_chunked_and_static_caches_equal_the_plain_one(
    model: Model, plan_for: PlanFor, options: dict[str, Any]
) -> None:
    with plan_for(model).on(model):
        same(generate(model, PROMPTS), generate(model, PROMPTS, **options))


def test_guessed_tokens_that_are_taken_back_leave_nothing(model: Model, plan_for: PlanFor) -> None:
    with plan_for(model).on(model):
        for prompt in ("ababababab", "x y x y x y"):
            plain = generate(model, [prompt], new=14)
            same(plain, generate(model, [prompt], new=14, prompt_lookup_num_tokens=4))


def test_a_generate_inside_generate_leaves_the_outer_one_alone(
    tiny_model: Any, plan_for: PlanFor
) -> None:
    model = tiny_model("llama")

    def look_aside(_ids: Any, scores: Any) -> Any:
        model.hf.generate(torch.tensor([[9, 8, 7]]), max_new_tokens=1, do_sample=False)
        return scores

    with plan_for(model).on(model):
        plain = generate(model, PROMPTS[:1])
        same(plain, generate(model, PROMPTS[:1], logits_processor=[look_aside]))
        same(plain, generate(model, PROMPTS[:1], assistant_early_exit=2))


def test_beams_equal_uncached_beams(model: Model, plan_for: PlanFor) -> None:
    with plan_for(model).on(model):
        for size in (2, 4):
            beams = {"num_beams": size, "num_return_sequences": 2}
            cached, uncached = (
                generate(model, PROMPTS, new=12, use_cache=c, **beams).tokens for c in (True, False)
            )
            assert torch.equal(cached, uncached)


def test_a_latch_follows_its_beam(tiny_model: Any) -> None:
    """Many prompts, so that beams do cross while some latches are shut."""
    model = tiny_model("llama")
    prompts = [chr(40 + 3 * i) * 3 + chr(110 - i) for i in range(16)]
    with latch_plan(model).on(model):
        cached, uncached = (
            generate(model, prompts, new=12, use_cache=c, num_beams=4).tokens for c in (True, False)
        )
    assert torch.equal(cached, uncached)


def test_sampling_is_the_same_from_the_same_seed(model: Model, plan_for: PlanFor) -> None:
    options = {"do_sample": True, "temperature": 1.5, "num_return_sequences": 3, "top_k": 0}
    with plan_for(model).on(model):
        runs = []
        for cached in (True, False):
            torch.manual_seed(3)
            runs.append(generate(model, PROMPTS, use_cache=cached, **options))
    same(*runs)


def test_the_first_generated_token_is_steered(model: Model) -> None:
    plain = generate(model, PROMPTS, new=1)
    with Plan(steer.add("resid_post.2", 10 * direction(model, 1))).on(model):
        steered = generate(model, PROMPTS, new=1)
    assert ((plain.logits - steered.logits).abs().amax((1, 2)) > 1e-2).all()


def test_scoring_equals_generating(model: Model, plan_for: PlanFor) -> None:
    """One pass over prompt and answer, told where the prompt ends, sees what decoding saw."""
    plan = plan_for(model)
    for prompt in PROMPTS:
        batch = model.tokenize([prompt])
        length = batch.input_ids.shape[1]
        with plan.on(model):
            made = generate(model, [prompt])
        text = torch.cat([batch.input_ids, made.tokens], 1)
        with plan.on(model, prompt_lengths=[length]), torch.no_grad():
            scored = model.hf(input_ids=text).logits[:, length - 1 : -1]
        assert (scored - made.logits).abs().max() <= 1e-5 * made.logits.abs().max()


def test_right_padded_scoring_equals_single_rows(model: Model, plan_for: PlanFor) -> None:
    plan = plan_for(model)
    batch = model.tokenize(list(PROMPTS), padding_side="right")
    lengths = [3, 4, 1]
    with plan.on(model, prompt_lengths=lengths):
        whole = model.forward(batch).detach()
    for row, n in enumerate(batch.lengths.tolist()):
        with plan.on(model, prompt_lengths=lengths[row]), torch.no_grad():
            alone = model.hf(input_ids=batch.input_ids[row, None, :n]).logits
        assert (whole[row, None, :n] - alone).abs().max() <= 1e-5 * alone.abs().max()


def gaps(model: Model) -> tuple[float, float]:
    """What a cache, and padding on the left, change of logits, as shares of the largest one."""
    cached, plain = (generate(model, PROMPTS[:2], new=4, use_cache=each) for each in (True, False))
    padded, alone = (Run(*(t[:1] for t in cached)), generate(model, PROMPTS[:1], new=4))
    found = []
    for one, other in ((cached, plain), (padded, alone)):
        assert torch.equal(one.tokens, other.tokens)
        found.append(float((one.logits - other.logits).abs().max() / one.logits.abs().max()))
    return found[0], found[1]


@pytest.mark.full
@pytest.mark.real
def test_the_real_model_differs_no_more_than_it_does_unsteered(real_model: Model) -> None:
    unsteered = max(gaps(real_model))
    site = "resid_post.9"
    with Plan(steer.add(site, 40 * direction(real_model, 1, site))).on(real_model) as trace:
        assert max(gaps(real_model)) <= 2 * unsteered
    assert trace.n_edited > 0
