"""The engine at its limits: half precision, memory, tensors placed once per device."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
import transformers
from laws import PROMPTS, direction, fresh
from torch import Tensor

from saesteer import steer
from saesteer.models import Model, layout_of
from saesteer.steer import Plan
from saesteer.steer.engine import Attachment

IDS = torch.tensor([[5, 6, 7]])


def after(model: Model, plan: Plan, block: int = 1) -> Tensor:
    """What leaves a block under a plan."""
    kept: list[Tensor] = []
    with plan.on(model), torch.no_grad():
        handle = model.layout.blocks[block].register_forward_hook(
            lambda _m, _a, out: kept.append(out if isinstance(out, Tensor) else out[0])
        )
        model.hf(IDS)
        handle.remove()
    return kept[0]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_fp16_saturates_and_does_not_overflow(tiny_model: Any, sign: float) -> None:
    model = fresh(tiny_model("llama"))
    model.hf.to(torch.float16)
    vector = torch.zeros(32)
    vector[3] = 1e6
    h = after(model, Plan(steer.add("resid_post.1", sign * vector), where=steer.all(special=True)))
    assert h.dtype == torch.float16
    assert torch.equal(h[..., 3], torch.full((1, 3), sign * torch.finfo(torch.float16).max).half())
    assert h.isfinite().all()


def test_fp16_sums_in_fp32(tiny_model: Any) -> None:
    """Parts that would each overflow may cancel."""
    model = fresh(tiny_model("llama"))
    model.hf.to(torch.float16)
    big = torch.full((32,), 9e4)
    push = [steer.add("resid_post.1", v) for v in (big, -big, torch.ones(32))]
    where = steer.all(special=True)
    plain = after(model, Plan())
    steered = after(model, Plan(*push, where=where))
    assert torch.equal(steered, (plain.float() + 1).half())


def test_an_infinity_that_was_there_stays(tiny_model: Any) -> None:
    model = fresh(tiny_model("llama"))
    model.hf.to(torch.float16)
    handle = model.layout.blocks[1].mlp.register_forward_hook(
        lambda _m, _a, out: out.index_fill(-1, torch.tensor([5]), torch.inf)
    )
    plan = Plan(steer.add("resid_post.1", torch.ones(32)), where=steer.all(special=True))
    assert after(model, plan)[..., 5].isinf().all()
    handle.remove()


def held_bytes() -> int:
    """Bytes of every tensor's storage that is alive, each counted once."""
    gc.collect()
    found = {}
    for thing in gc.get_objects():
        if type(thing) in (Tensor, torch.nn.Parameter):
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def test_sixteen_layers_cost_under_one_percent_of_the_model(tiny_model: Any) -> None:
    config = transformers.LlamaConfig(
        vocab_size=128,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=16,
        num_attention_heads=4,
    )
    hf = transformers.LlamaForCausalLM(config).eval()
    model = Model(hf, tiny_model("llama").tokenizer, "sixteen", layout_of(hf))
    weights = sum(p.numel() * p.element_size() for p in hf.parameters())
    batch = model.tokenize(list(PROMPTS))
    model.forward(batch)
    before = held_bytes()
    acts = [steer.add(f"resid_post.{n}", direction(model, n, f"resid_post.{n}")) for n in range(16)]
    plan = Plan(*acts, where=steer.all())
    with plan.on(model) as trace, torch.no_grad():
        model.forward(batch)
        trace.clear()
        added = held_bytes() - before
    assert 16 * 128 * 4 <= added < 0.01 * weights


def test_a_plan_is_placed_once_per_device(tiny_model: Any) -> None:
    """What a model spread over devices needs; `meta` stands for the second one here."""
    model = tiny_model("llama")
    act = Attachment(Plan(steer.add("resid_post.1", torch.ones(32))), model)._acts
    (only,) = next(iter(act.values()))
    places = [torch.device("cpu"), torch.device("meta")]
    made = [only.on(place) for place in places]
    assert [m.intervention.vector.device.type for m in made] == ["cpu", "meta"]  # type: ignore[attr-defined]
    assert all(only.on(place) is one for place, one in zip(places, made, strict=True))
