"""Which features fire on a text: shares, positions and outliers against the SAE itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from saesteer.errors import DataError
from saesteer.features.activations import read_activations
from saesteer.features.top import top_features
from saesteer.models import install

TEXT = "a small boat at sea"


def test_shares_and_firings_are_the_saes_own(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    latents = sae.encode(read_activations(model, [TEXT], sae.site)[0])
    found = top_features(model, sae, TEXT, top=sae.d_sae)
    assert found.n_active == len(found.features) == int((latents > 0).any(0).sum())
    assert abs(sum(feature.share for feature in found.features) - 1) < 1e-5
    assert "".join(found.tokens).strip() == TEXT
    for feature in found.features:
        column = latents[:, feature.index]
        assert {f.position for f in feature.firings} == set(column.nonzero().flatten().tolist())
        for firing in feature.firings:
            assert firing.token == found.tokens[firing.position]
            assert firing.activation == pytest.approx(column[firing.position].item(), rel=1e-4)
        assert feature.max_activation == pytest.approx(column.max().item(), rel=1e-4)


def test_the_share_is_in_residual_units(tiny_model: Any, tiny_sae: Any) -> None:
    """A latent scaled up against its decoder row says the same; its share must not move."""
    from dataclasses import replace

    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    scale = torch.linspace(0.5, 4, sae.d_sae)
    other = replace(
        sae,
        w_enc=sae.w_enc * scale,
        b_enc=sae.b_enc * scale,
        threshold=sae.threshold * scale,
        w_dec=sae.w_dec / scale.unsqueeze(1),
    )
    before, after = (top_features(model, s, TEXT, top=5) for s in (sae, other))
    assert [f.index for f in before.features] == [f.index for f in after.features]
    for left, right in zip(before.features, after.features, strict=True):
        assert left.share == pytest.approx(right.share, rel=1e-4)


def test_outliers_are_named_and_left_out(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    n_prefix = len(model.tokenizer("")["input_ids"])

    def blow_up(resid: torch.Tensor) -> torch.Tensor:
        resid = resid.clone()
        resid[:, n_prefix + 3] *= 1000
        return resid

    handle = install(model.layout.point(sae.site), blow_up)
    try:
        found = top_features(model, sae, TEXT, top=sae.d_sae)
    finally:
        handle.remove()
    assert found.outliers == (3,)
    assert all(firing.position != 3 for f in found.features for firing in f.firings)


def test_top_is_a_limit_and_the_result_is_json(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    found = top_features(model, tiny_sae(model, "resid_post.1"), TEXT, top=2)
    assert len(found.features) == 2
    assert found.features[0].share >= found.features[1].share
    assert (
        json.loads(json.dumps(found.to_dict()))["features"][0]["index"] == found.features[0].index
    )


def test_text_without_tokens(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    with pytest.raises(DataError, match="has no tokens"):
        top_features(model, tiny_sae(model, "resid_post.1"), "")
