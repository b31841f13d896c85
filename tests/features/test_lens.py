"""The logit lens on weights that were planted, and the gain of every kind of norm."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from saesteer.errors import FeatureError
from saesteer.features.lens import lens_weights, norm_gain, promoted_tokens, token_text


def roughen(norm: torch.nn.Module) -> torch.Tensor:
    """Give the norm random weights and return them."""
    generator = torch.Generator().manual_seed(7)
    for parameter in norm.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator) + 0.5
    return norm.weight.data  # type: ignore[return-value]


@pytest.mark.parametrize(("arch", "extra"), [("llama", 0.0), ("gpt2", 0.0), ("gemma3", 1.0)])
def test_the_gain_of_each_norm(tiny_model: Any, arch: str, extra: float) -> None:
    layout = copy.deepcopy(tiny_model(arch)).layout
    weight = roughen(layout.final_norm)
    gain = norm_gain(layout.final_norm, layout.unembed.weight)
    torch.testing.assert_close(gain, weight + extra, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gemma3"])
def test_the_lens_is_the_direction_of_the_logits_change(tiny_model: Any, arch: str) -> None:
    """On a residual orthogonal to the direction, a small step changes the logits by the lens."""
    model = copy.deepcopy(tiny_model(arch))
    layout = model.layout
    roughen(layout.final_norm)
    base = torch.ones(layout.d_model)
    base[1::2] = -1
    direction = torch.randn(layout.d_model, generator=torch.Generator().manual_seed(2)) + 1
    direction -= (direction @ base) / (base @ base) * base
    unit = direction / direction.norm()

    def logits(resid: torch.Tensor) -> torch.Tensor:
        return layout.unembed(layout.final_norm(resid))

    with torch.no_grad():
        change = (logits(base + 0.01 * unit) - logits(base - 0.01 * unit)) / 0.02
    lens = lens_weights(model, direction.unsqueeze(0) * 3)[0]
    torch.testing.assert_close(lens, change - change.mean(), rtol=1e-2, atol=2e-3)
    assert abs(lens.mean().item()) < 1e-6


def test_a_planted_token_is_promoted_and_its_opposite_suppressed(
    tiny_model: Any, tiny_sae: Any
) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.3")
    rows = sae.w_dec.clone()
    rows[4] = model.layout.unembed.weight.data[65]
    rows[5] = -rows[4]
    up, down = promoted_tokens(model, replace(sae, w_dec=rows), [4, 5], n=3)
    assert up.index == 4
    assert up.promoted[0].token == down.suppressed[0].token == token_text(model, 65)
    assert [len(up.promoted), len(up.suppressed)] == [3, 3]
    weights = [token.weight for token in up.promoted]
    assert weights == sorted(weights, reverse=True)
    assert up.suppressed[0].weight < 0 < weights[-1]


def test_a_feature_outside_the_sae(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    with pytest.raises(FeatureError, match="feature 9999 does not exist"):
        promoted_tokens(model, tiny_sae(model, "resid_post.1"), [9999])
