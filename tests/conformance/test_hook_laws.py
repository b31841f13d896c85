"""A plan leaves a model as it found it, whatever happened, and what others put there stays."""

from __future__ import annotations

from copy import deepcopy
from threading import Thread
from typing import Any

import pytest
import torch
from laws import PROMPTS, arches, clamp_plan, direction, fresh, generate, same, state

from saesteer import steer
from saesteer.errors import PlanError
from saesteer.models import Model
from saesteer.steer import Plan


@pytest.fixture(params=arches())
def model(request: pytest.FixtureRequest, tiny_model: Any) -> Model:
    """One tiny model per architecture, to be changed at will."""
    return fresh(tiny_model(request.param))


def adding(model: Model, seed: int = 1, size: float = 8.0, site: str = "resid_post.2") -> Plan:
    return Plan(steer.add(site, size * direction(model, seed, site)))


def test_strength_zero_is_the_plain_model_bit_for_bit(model: Model, tiny_sae: Any) -> None:
    plain, before = generate(model, PROMPTS), state(model)
    plan = clamp_plan(model, tiny_sae(model, "resid_post.2")) * 0.0
    with plan.on(model) as trace:
        assert state(model) == before
        nothing = generate(model, PROMPTS)
    assert torch.equal(plain.tokens, nothing.tokens)
    assert torch.equal(plain.logits, nothing.logits)
    assert trace.n_positions == 0


def test_everything_is_gone_afterwards(model: Model) -> None:
    plain, before = generate(model, PROMPTS), state(model)
    with adding(model).on(model):
        generate(model, PROMPTS)
        assert state(model) != before
    assert state(model) == before
    same(plain, generate(model, PROMPTS), tolerance=0)


def test_another_model_of_the_same_class_is_left_alone(model: Model) -> None:
    other = fresh(model)
    plain, before = generate(other, PROMPTS), state(other)
    with adding(model).on(model):
        generate(model, PROMPTS, new=1)
        assert state(other) == before
        same(plain, generate(other, PROMPTS), tolerance=0)


def test_everything_is_gone_after_an_exception(model: Model) -> None:
    before = state(model)
    with pytest.raises(KeyError), adding(model).on(model):
        raise KeyError
    assert state(model) == before
    with pytest.raises(PlanError, match="prompt_lengths"), adding(model).on(model):
        model.hf(input_ids=torch.tensor([[5, 6, 7]]))
    assert state(model) == before


def test_a_failed_generation_does_not_disturb_the_next(model: Model) -> None:
    with adding(model).on(model):
        good = generate(model, PROMPTS)

        def fail(_ids: Any, _scores: Any) -> Any:
            raise KeyError

        with pytest.raises(KeyError):
            generate(model, ["hello"], logits_processor=[fail])
        same(good, generate(model, PROMPTS), tolerance=0)


def test_hooks_of_others_stay_and_still_run(model: Model) -> None:
    seen: list[float] = []
    block = model.layout.blocks[2]
    handle = block.register_forward_hook(lambda *_: seen.append(1.0))
    before = state(model)
    with adding(model).on(model):
        generate(model, ["hello"], new=3)
        inner = block.register_forward_hook(lambda *_: seen.append(2.0))
        generate(model, ["hello"], new=1)
    assert seen == [1.0, 1.0, 1.0, 1.0, 2.0]
    inner.remove()
    assert state(model) == before
    handle.remove()


def test_a_generate_of_somebody_else_is_put_back(model: Model) -> None:
    original, calls = model.hf.generate, []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs)

    model.hf.generate = counted
    with adding(model).on(model):
        generate(model, ["hello"], new=1)
    assert model.hf.generate is counted
    assert calls == [1]


def test_plans_nest_in_any_order(model: Model) -> None:
    one, two = adding(model, 1), adding(model, 2)
    with (one + two).on(model):
        both = generate(model, PROMPTS)
    with one.on(model), two.on(model):
        same(both, generate(model, PROMPTS))
    with one.on(model):
        first = generate(model, PROMPTS)
    before = state(model)
    one.attach(model)
    two.attach(model)
    one.detach()
    with two.on(model):
        pass
    two.detach(model)
    assert state(model) == before
    with one.on(model):
        same(first, generate(model, PROMPTS), tolerance=0)


def test_an_inner_plan_reads_what_the_outer_one_left(tiny_model: Any, tiny_sae: Any) -> None:
    model = fresh(tiny_model("llama"))
    sae = tiny_sae(model, "resid_post.2")
    shift = steer.add("resid_post.2", 3 * direction(model, 1))
    kept: list[torch.Tensor] = []
    model.layout.blocks[2].register_forward_hook(
        lambda _m, _a, out: kept.append(out if isinstance(out, torch.Tensor) else out[0])
    )
    ids = torch.tensor([[5, 9, 33]])
    model.hf(ids)
    outer = Plan(shift, where=steer.all())
    inner = Plan(steer.clamp(sae, 3, 5.0), where=steer.all())
    with outer.on(model), inner.on(model):
        model.hf(ids)
    plain, steered = (h.detach() for h in kept)
    between = plain + shift.vector
    expected = between + steer.clamp(sae, 3, 5.0).delta(between)
    assert torch.allclose(steered, expected, atol=1e-5)


def test_the_same_plan_twice_acts_twice(model: Model) -> None:
    plan = adding(model)
    with (plan * 2).on(model):
        double = generate(model, PROMPTS)
    with plan.on(model), plan.on(model):
        same(double, generate(model, PROMPTS))


def test_detaching_what_is_not_attached_is_an_error(model: Model) -> None:
    with pytest.raises(PlanError, match="not attached"):
        adding(model).detach()


def test_edits_show_in_hidden_states(model: Model) -> None:
    model.hf(torch.tensor([[5, 6]]), output_hidden_states=True)
    plan = Plan(steer.add("resid_post.1", 5 * direction(model, 1)), where=steer.all())
    plain = model.hf(torch.tensor([[5, 6]]), output_hidden_states=True).hidden_states
    with plan.on(model):
        steered = model.hf(torch.tensor([[5, 6]]), output_hidden_states=True).hidden_states
    assert torch.equal(plain[1], steered[1])
    moved = steered[2] - plain[2]
    assert torch.allclose(moved, (5 * direction(model, 1)).expand(moved.shape), atol=1e-4)


def test_generating_in_another_thread_is_steered_too(model: Model) -> None:
    out: list[Any] = []
    with adding(model).on(model):
        here = generate(model, PROMPTS)
        threads = [
            Thread(target=lambda p=p: out.append((p, generate(model, [p])))) for p in PROMPTS
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(out) == len(PROMPTS)
    for prompt, run in out:
        assert torch.equal(run.tokens[0], here.tokens[PROMPTS.index(prompt)])


def test_a_copy_made_under_a_plan_uses_its_own_weights_and_is_plain_afterwards(
    model: Model,
) -> None:
    plain = generate(model, PROMPTS)
    with adding(model).on(model):
        steered = generate(model, PROMPTS)
        copied = deepcopy(model.hf)
        twin = Model(copied, model.tokenizer, "twin", model.layout)
        same(steered, generate(twin, PROMPTS), tolerance=0)
        with torch.no_grad():
            copied.get_output_embeddings().weight.mul_(-1)
        assert not torch.equal(steered.logits, generate(twin, PROMPTS).logits)
        same(steered, generate(model, PROMPTS), tolerance=0)
    with torch.no_grad():
        copied.get_output_embeddings().weight.mul_(-1)
    same(plain, generate(twin, PROMPTS), tolerance=0)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
def test_gradients_flow_through_an_edit_and_through_checkpoints(tiny_model: Any) -> None:
    """Checkpointing recomputes a block in the backward pass, and with it the hooks inside."""
    model = fresh(tiny_model("llama"))
    batch = model.tokenize(list(PROMPTS))
    plan = Plan(
        steer.add_scaled("attn_out.1", direction(model, 1)),
        steer.add_scaled("resid_mid.2", direction(model, 1)),
        where=steer.all(special=True),
    )
    weight = model.layout.blocks[0].mlp.down_proj.weight
    grads = []
    for checkpointing in (False, True):
        if checkpointing:
            model.hf.train()
            model.hf.gradient_checkpointing_enable({"use_reentrant": False})
        with plan.on(model) as trace:
            loss = model.hf(input_ids=batch.input_ids, use_cache=False).logits.square().mean()
            loss.backward()
        assert trace.n_edited == trace.n_positions == batch.input_ids.numel()
        assert list(trace.fired.values()) == [trace.n_edited] * 2
        grads.append(weight.grad.clone())
        weight.grad = None
    assert grads[0].abs().max() > 0
    assert torch.allclose(grads[0], grads[1], rtol=1e-4, atol=1e-7)


def test_compiled_models_are_refused(tiny_model: Any) -> None:
    model = fresh(tiny_model("llama"))
    model.hf._compiled_call_impl = lambda *_: None
    with pytest.raises(PlanError, match="compiled"):
        adding(model).attach(model)


def test_pipelines_are_steered(tiny_model: Any) -> None:
    from transformers import pipeline

    model = fresh(tiny_model("llama"))
    pipe = pipeline("text-generation", model=model.hf, tokenizer=model.tokenizer, device="cpu")
    options = {"max_new_tokens": 8, "do_sample": False, "return_full_text": False}
    plain = pipe("some words", **options)[0]["generated_text"]
    with adding(model, size=20.0).on(model):
        steered = pipe("some words", **options)[0]["generated_text"]
        assert steered == model.generate("some words", max_new_tokens=8)
    assert steered != plain
    assert plain == model.generate("some words", max_new_tokens=8)


def test_streamed_text_is_the_steered_text(tiny_model: Any) -> None:

    from transformers import TextIteratorStreamer

    model = tiny_model("llama")
    vector = 20 * torch.randn(32, generator=torch.Generator().manual_seed(2))
    plan = Plan(steer.add("resid_post.1", vector))
    ids = model.tokenize("the rain").input_ids
    streamer = TextIteratorStreamer(model.tokenizer, skip_prompt=True)
    options = {"max_new_tokens": 6, "do_sample": False}
    with plan.on(model):
        expected = model.hf.generate(ids, **options)[0, ids.shape[1] :]
        thread = Thread(
            target=model.hf.generate, args=(ids,), kwargs={**options, "streamer": streamer}
        )
        thread.start()
        pieces = list(streamer)
        thread.join()
    assert "".join(pieces) == model.tokenizer.decode(expected)
    assert not torch.equal(expected, model.hf.generate(ids, **options)[0, ids.shape[1] :])
