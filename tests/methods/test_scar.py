"""SCAR's replacement by hand, and the way from a training run to a plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from saesteer.data.contrast import Contrast
from saesteer.errors import FeatureError, SaeError
from saesteer.methods import SCAR
from saesteer.models import Model, Site, record
from saesteer.saes import SAE, load_sae, save_sae

SITE = Site.parse("resid_post.2")
TEXT = "some words of no kind"


@pytest.mark.parametrize(("strength", "factor"), [(1.0, 4.0), (1.0, -3.0), (0.5, 4.0)])
def test_the_activation_becomes_the_reconstruction_with_one_latent_scaled(
    model: Model, sae: SAE, letters: Contrast, strength: float, factor: float
) -> None:
    batch = model.tokenize(TEXT)
    clean = record(model, batch, [SITE])[SITE]
    latents = sae.encode(clean)
    latent = int((latents[0, 3:] > 0).sum(0).argmax())
    wanted = latents.clone()
    wanted[..., latent] *= factor
    expected = clean + strength * (sae.decode(wanted) - clean)
    plan = SCAR(sae, latent, factor).fit(model, letters) * strength
    after = Site(SITE.layer + 1, "resid_pre")
    with plan.on(model, prompt_lengths=[4]):
        got = record(model, batch, [after])[after]
    assert torch.equal(got[:, :3], clean[:, :3])
    assert torch.allclose(got[:, 3:], expected[:, 3:], atol=1e-4 * float(clean.abs().max()))
    assert not torch.allclose(got[:, 3:], sae(clean)[:, 3:], atol=1e-2)


def test_the_latent_is_the_one_that_the_run_supervised(
    model: Model, sae: SAE, letters: Contrast, tmp_path: Any
) -> None:
    told = replace(sae, metadata={**sae.metadata, "supervised_latent": 7})
    save_sae(told, tmp_path / "run")
    plan = SCAR(load_sae(tmp_path / "run")).fit(model, letters)
    assert [edit.label for edit in plan.edits][1] == f"scale feature 7 by 5 at {SITE}"


def test_errors(model: Model, sae: SAE, letters: Contrast) -> None:
    with pytest.raises(SaeError, match="trained without a supervised latent; train one with"):
        SCAR(sae).fit(model, letters)
    with pytest.raises(FeatureError, match="feature 96 does not exist"):
        SCAR(sae, 96).fit(model, letters)
