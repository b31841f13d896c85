"""A model inside a TransformerBridge is steered as it would be outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from laws import PROMPTS, arches, clamp_plan, fresh, generate, latch_plan, same

from saesteer.errors import PlanError
from saesteer.models import Model, as_model
from saesteer.steer import Plan, WeightEdit


@pytest.fixture(params=arches())
def pair(
    request: pytest.FixtureRequest, tiny_model: Any, tmp_path: Path
) -> tuple[Model, Any, Model]:
    """A model with eager attention, a bridge around its copy, and that bridge as a Model."""
    lens = pytest.importorskip("transformer_lens.model_bridge")
    from transformers import AutoTokenizer

    model = fresh(tiny_model(request.param))
    model.hf.set_attn_implementation("eager")
    twin = fresh(model)
    twin.hf.config.architectures = [type(twin.hf).__name__]
    del twin.hf.__dict__["_saesteer_model"]
    model.tokenizer.save_pretrained(tmp_path)
    bridge = lens.TransformerBridge.boot_transformers(
        "tiny", hf_model=twin.hf, tokenizer=AutoTokenizer.from_pretrained(tmp_path), device="cpu"
    )
    inside = as_model(bridge)
    inside.tokenizer = model.tokenizer  # the bridge's own adds a BOS
    return model, bridge, inside


def test_a_bridge_is_steered_as_the_model_in_it(
    pair: tuple[Model, Any, Model], tiny_sae: Any
) -> None:
    model, bridge, inside = pair
    for plan in (clamp_plan(model, tiny_sae(model, "resid_post.2")), latch_plan(model)):
        with plan.on(model):
            plain = generate(model, PROMPTS)
        with plan.on(bridge):
            same(plain, generate(inside, PROMPTS))


def test_the_bridge_s_own_loop_knows_where_the_prompt_ends(
    pair: tuple[Model, Any, Model], tiny_sae: Any
) -> None:
    model, bridge, _ = pair
    plan = clamp_plan(model, tiny_sae(model, "resid_post.2"))
    ids = model.tokenize(PROMPTS[0]).input_ids
    options = {"do_sample": False, "stop_at_eos": False, "return_type": "tokens", "verbose": False}
    with plan.on(model):
        plain = generate(model, PROMPTS[:1], new=6)
    with plan.on(bridge) as trace:
        tokens = bridge.generate(ids, max_new_tokens=6, **options)
    assert torch.equal(tokens[:, ids.shape[1] :], plain.tokens)
    assert trace.n_edited == 6
    assert "generate" not in bridge.__dict__


def test_a_bridges_weights_are_edited_under_the_models_own_names(
    pair: tuple[Model, Any, Model],
) -> None:
    model, bridge, _ = pair
    matrices = [(n, p) for n, p in model.hf.named_parameters() if p.ndim == 2 and "1." in n]
    name, parameter = next((n, p) for n, p in matrices if "mlp" in n or "o_proj" in n)
    noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    plan, ids = Plan(WeightEdit(name, 0.3 * noise)), torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        plain = model.hf(ids).logits
        with plan.on(model):
            steered = model.hf(ids).logits
        with plan.on(bridge):
            inside = bridge(ids)
        again = bridge(ids)
    size = plain.abs().max()
    assert (steered - plain).abs().max() > 1e-2 * size
    assert (inside - steered).abs().max() <= 1e-5 * size
    assert (again - plain).abs().max() <= 1e-5 * size


def test_a_fused_weight_that_a_bridge_has_copied_is_refused(
    pair: tuple[Model, Any, Model],
) -> None:
    model, bridge, _ = pair
    fused = [
        n for n, _ in model.hf.named_parameters() if "c_attn.w" in n or "query_key_value.w" in n
    ]
    for name in fused:
        plan = Plan(WeightEdit(name, torch.zeros_like(model.hf.get_parameter(name))))
        with plan.on(model):
            pass
        with pytest.raises(PlanError, match="copies"):
            plan.attach(bridge)
