"""A model with parts on disk, or brought in for each pass, is steered as one that lies in memory.

Between passes accelerate keeps such parts on the meta device and wraps their modules' `forward`.
No second device is needed: what reads a weight, or asks the first one for its device, fails here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from laws import PROMPTS, arches, clamp_plan, fresh, generate, latch_plan, same, state
from method_cases import LETTERS

from saesteer import methods, steer
from saesteer.errors import PlanError
from saesteer.features.lens import lens_weights
from saesteer.models import Model, load_model, record
from saesteer.steer import Plan, WeightEdit
from saesteer.steer.store import digest_of

KINDS = ("resid_pre", "resid_post", "attn_out", "mlp_out", "head_out")
Pair = tuple[Model, Model]


def on_disk(model: Model, folder: Path) -> Model:
    """Saved and loaded again with its embedding and every other block on disk."""
    model.hf.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    base, blocks = model.layout.base, list(model.layout.blocks)
    names = {module: name for name, module in model.hf.named_modules()}
    parts = [child for child in base.children() if blocks[0] not in child.children()]
    placed = {names[part]: "cpu" for part in parts}
    placed |= {names[block]: "disk" if i % 2 == 0 else "cpu" for i, block in enumerate(blocks)}
    tied = model.layout.unembed.weight is model.hf.get_input_embeddings().weight
    placed[names[model.hf.get_input_embeddings()]] = "disk"
    placed.setdefault(names[model.layout.unembed], "disk" if tied else "cpu")
    return load_model(
        folder / "model", device="cpu", device_map=placed, offload_folder=folder / "away"
    )


def brought_in(model: Model, _folder: Path) -> Model:
    """Every weight in memory, away from where it is used, and fetched for each pass."""
    copied = fresh(model)
    accelerate.cpu_offload(copied.hf, execution_device=torch.device("cpu"))
    return copied


@pytest.fixture(params=arches(("llama", "gpt2", "gemma3", "neox"), fast=("llama",)))
def arch(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=(on_disk, brought_in))
def pair(request: pytest.FixtureRequest, arch: str, tiny_model: Any, tmp_path: Path) -> Pair:
    """A model in memory and the same one with parts away."""
    model = tiny_model(arch)
    away = request.param(model, tmp_path)
    assert any(parameter.is_meta for parameter in away.hf.parameters())
    return model, away


def test_it_knows_its_device_and_is_the_same_model(pair: Pair) -> None:
    model, away = pair
    assert away.device == model.device
    assert away.tokenize("rain").input_ids.device.type == "cpu"
    assert away.fingerprint() == model.fingerprint()


def test_every_site_reads_the_same(pair: Pair) -> None:
    model, away = pair
    sites = [f"{kind}.{layer}" for kind in KINDS for layer in range(model.n_layers)]
    batch = model.tokenize(list(PROMPTS))
    found, wanted = record(away, batch, sites), record(model, batch, sites)
    assert found.keys() == wanted.keys()
    for site, resid in found.items():
        assert torch.equal(resid, wanted[site])


PLANS: dict[str, Callable[[Model, Any], Plan]] = {
    "vectors at every layer": lambda m, _: Plan(
        *(steer.add(f"resid_post.{layer}", torch.ones(m.d_model)) for layer in range(m.n_layers))
    ),
    "features": clamp_plan,
    "a gate that remembers": lambda m, _: latch_plan(m),
    "a head and the reconstruction": lambda _, sae: Plan(
        steer.add("head_out.0.1", torch.ones(8)), steer.replace(sae)
    ),
}


@pytest.mark.parametrize("make", PLANS.values(), ids=PLANS)
def test_plans_do_the_same_and_leave_nothing(
    pair: Pair, tiny_sae: Any, make: Callable[[Model, Any], Plan]
) -> None:
    model, away = pair
    plan = make(model, tiny_sae(model, "resid_post.2"))
    before, plain = state(away), generate(away, PROMPTS)
    with plan.on(model) as here:
        wanted = generate(model, PROMPTS)
    with plan.on(away) as there:
        found = generate(away, PROMPTS)
    same(found, wanted, 0.0)
    assert there.dose() == here.dose() > 0
    assert state(away) == before
    same(generate(away, PROMPTS), plain, 0.0)


def test_a_compiled_form_does_the_same(pair: Pair) -> None:
    model, away = pair
    plan = Plan(steer.add("resid_post.2", 3 * torch.ones(model.d_model)))
    with plan.on(model):
        wanted = model.generate(PROMPTS[0], max_new_tokens=8)
    with plan.compiled(away):
        assert away.generate(PROMPTS[0], max_new_tokens=8) == wanted


def test_saved_plans_know_it_as_the_model_they_were_made_for(pair: Pair, tmp_path: Path) -> None:
    model, away = pair
    Plan(steer.add("resid_post.2", torch.ones(model.d_model))).save(tmp_path / "plan", away)
    assert Plan.load(tmp_path / "plan", model).stamp == Plan.load(tmp_path / "plan", away).stamp


def test_methods_that_read_weights_fit_the_same(pair: Pair, tiny_sae: Any) -> None:
    model, away = pair
    for method in (methods.RefusalCliff(top_k=2), methods.HNeurons(share=0.02), methods.CAA()):
        wanted, found = (digest_of(method.fit(m, LETTERS)) for m in (model, away))
        assert found == wanted
    directions = tiny_sae(model, "resid_post.2").w_dec[:3]
    assert torch.equal(lens_weights(away, directions), lens_weights(model, directions))


def test_weights_that_are_away_can_t_be_edited_and_say_so(pair: Pair) -> None:
    _, away = pair
    name, weight = next(
        (n, p) for n, p in away.hf.named_parameters() if p.is_meta and ".0." in n and p.ndim == 2
    )
    with pytest.raises(PlanError, match="is on no device, so nothing can be added to it; load"):
        Plan(WeightEdit(name, torch.ones(weight.shape))).attach(away)
    with pytest.raises(PlanError, match="layer 0's mlp output matrix is offloaded, so it can't be"):
        methods.CASAL(n_steps=1).fit(away, LETTERS, "resid_post.0")
