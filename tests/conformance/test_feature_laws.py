"""Column slices do exactly what encoding everything, editing and decoding would do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from laws import fresh
from torch import Tensor

from saesteer import steer
from saesteer.models import Model
from saesteer.saes.sae import SAE
from saesteer.steer import Intervention, Plan

FEATURES = [3, 17, 40]


def full(sae: SAE, resid: Tensor, kind: str) -> Tensor:
    """h plus the difference of two full decodings."""
    latents = sae.encode(resid)
    new = latents.clone()
    match kind:
        case "clamp":
            new[..., FEATURES] = 4.0
        case "scale":
            new[..., FEATURES] *= 2.5
        case "ablate":
            new[..., FEATURES] = 0.0
        case "feature_shift":
            shifted = (new[..., FEATURES] - 0.8).clamp(min=0)
            new[..., FEATURES] = torch.where(new[..., FEATURES] > 0, shifted, 0.0)
        case _:
            new[..., FEATURES] += 1.5
    return resid + sae.decode(new) - sae.decode(latents)


def sliced(sae: SAE, kind: str) -> Intervention:
    match kind:
        case "clamp":
            return steer.clamp(sae, FEATURES, 4.0)
        case "scale":
            return steer.scale(sae, FEATURES, 2.5)
        case "ablate":
            return steer.ablate(sae, FEATURES)
        case "feature_shift":
            return steer.feature_shift(sae, FEATURES, -0.8)
        case _:
            return steer.feature_add(sae, FEATURES, 1.5)


@pytest.mark.parametrize("kind", ["clamp", "scale", "ablate", "feature_add", "feature_shift"])
@pytest.mark.parametrize("activation", ["jumprelu", "relu", "topk"])
def test_a_slice_equals_the_full_code(
    tiny_model: Any, tiny_sae: Any, kind: str, activation: str
) -> None:
    sae = with_activation(tiny_sae(tiny_model("llama"), "resid_post.2"), activation)
    resid = 2 * torch.randn(2, 9, sae.d_model, generator=torch.Generator().manual_seed(0))
    edited = resid + sliced(sae, kind).delta(resid)
    assert torch.allclose(edited, full(sae, resid, kind), atol=1e-5)


def with_activation(sae: SAE, activation: str) -> SAE:
    """The same weights read in another way."""
    from dataclasses import replace

    match activation:
        case "topk":
            return replace(sae, activation="topk", k=8)
        case "relu":
            return replace(sae, activation="relu", threshold=torch.zeros_like(sae.threshold))
        case _:
            return replace(sae, activation="jumprelu", threshold=sae.threshold.abs() + 0.2)


def hidden(model: Model, plan: Plan | None, ids: Tensor) -> Tensor:
    """The output of block 2 under a plan."""
    kept: list[Tensor] = []
    handle = model.layout.blocks[2].register_forward_hook(
        lambda _m, _a, out: kept.append(out if isinstance(out, Tensor) else out[0])
    )
    with torch.no_grad():
        if plan is None:
            model.hf(ids)
        else:
            with plan.on(model):
                model.hf(ids)
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("arch", ["llama", "gpt2", "neox"])
def test_edits_of_a_site_read_the_same_activation_and_add_up(
    tiny_model: Any, tiny_sae: Any, arch: str
) -> None:
    model = tiny_model(arch)
    sae, ids = tiny_sae(model, "resid_post.2"), torch.tensor([[5, 9, 44, 23, 61]])
    edits = [steer.clamp(sae, 3, 5.0), steer.ablate(sae, [1, 2]), steer.scale(sae, 4, 3.0)]
    plain = hidden(model, None, ids)
    expected = plain + sum(edit.delta(plain) for edit in edits) * 0.7
    for order in (edits, edits[::-1]):
        got = hidden(model, Plan(*order, where=steer.all(special=True), strength=0.7), ids)
        assert torch.allclose(got, expected, atol=1e-5)


def test_clamping_to_the_present_value_changes_nothing(tiny_model: Any, tiny_sae: Any) -> None:
    sae = tiny_sae(tiny_model("llama"), "resid_post.2")
    resid = torch.randn(1, 1, sae.d_model)
    values = sae.encode(resid)[0, 0, FEATURES].tolist()
    assert steer.clamp(sae, FEATURES, values).delta(resid).abs().max() < 1e-5
    assert torch.equal(steer.scale(sae, FEATURES, 1.0).delta(resid), torch.zeros_like(resid))


def test_features_of_a_half_precision_sae_are_read_in_fp32(tiny_model: Any, tiny_sae: Any) -> None:
    rough = tiny_sae(tiny_model("llama"), "resid_post.2").to(dtype=torch.bfloat16)
    resid = torch.randn(1, 5, rough.d_model)
    for edit in (lambda sae: steer.clamp(sae, FEATURES, 4.0), lambda sae: steer.ablate(sae, 3)):
        wide = edit(rough.to(dtype=torch.float32)).delta(resid)
        torch.testing.assert_close(edit(rough).delta(resid), wide, rtol=1e-6, atol=1e-6)


def test_unedited_positions_keep_their_bits(tiny_model: Any, tiny_sae: Any) -> None:
    model = fresh(tiny_model("llama"))
    model.hf.to(torch.bfloat16)
    sae, ids = tiny_sae(model, "resid_post.2"), torch.tensor([[5, 9, 44, 23, 61]])
    plain = hidden(model, None, ids)
    got = hidden(model, Plan(steer.clamp(sae, 3, 9.0), where=steer.positions([1, 3])), ids)
    assert got.dtype == torch.bfloat16
    untouched = torch.tensor([0, 2, 4])
    assert torch.equal(got[:, untouched], plain[:, untouched])
    assert not torch.equal(got[:, [1, 3]], plain[:, [1, 3]])
    wide = plain.float() + steer.clamp(sae, 3, 9.0).delta(plain)
    assert torch.equal(got[:, [1, 3]], wide.to(torch.bfloat16)[:, [1, 3]])
