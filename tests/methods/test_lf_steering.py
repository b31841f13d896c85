"""LF-Steering by hand: which latents, how far, which layer, and what stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError, ContrastError, DimensionError, SiteError
from saesteer.features import read_activations
from saesteer.methods import LFSteering
from saesteer.models import Model
from saesteer.saes import SAE
from saesteer.steer import Plan

SITE = "resid_post.2"


def expected_shift(model: Model, sae: SAE, contrast: Contrast) -> torch.Tensor:
    """Means over texts of means over tokens."""
    train = contrast.split("train")
    means = []
    for side in (train.positives, train.negatives):
        rows = read_activations(model, side, sae.site, drop_outliers=True)
        means.append(torch.stack([sae.encode(row).amax(0) for row in rows]).mean(0))
    return means[0] - means[1]


def delta_of(plan: Plan, resid: torch.Tensor) -> torch.Tensor:
    return plan.edits[0].intervention.delta(resid)


def test_active_latents_move_by_the_difference_of_means_and_the_error_stays(
    model: Model, sae: SAE, letters: Contrast
) -> None:
    plan = LFSteering(sae, n_features=10, alpha=2.0).fit(model, letters)
    shift = 2 * expected_shift(model, sae, letters)
    kept = shift.abs().argsort(descending=True)[:10]
    resid = 2 * torch.randn(1, 6, sae.d_model, generator=torch.Generator().manual_seed(0))
    latents = sae.encode(resid)
    wanted = latents.clone()
    moved = (latents[..., kept] + shift[kept]).clamp(min=0)
    wanted[..., kept] = torch.where(latents[..., kept] > 0, moved, 0.0)
    full = sae.decode(wanted) + (resid - sae.decode(latents))
    assert (wanted != latents).any()
    assert torch.allclose(resid + delta_of(plan, resid), full, atol=1e-3)


def test_where_none_of_them_is_on_nothing_happens(
    model: Model, sae: SAE, letters: Contrast
) -> None:
    plan = LFSteering(sae, n_features=10).fit(model, letters)
    assert not delta_of(plan, torch.zeros(1, 2, sae.d_model)).any()


def test_of_several_saes_the_most_separable_site_is_taken(
    model: Model, sae: SAE, tiny_sae: Callable[..., SAE], letters: Contrast
) -> None:
    others = [tiny_sae(model, f"resid_post.{layer}") for layer in (0, 1, 3)]
    method = LFSteering(sae, others)
    found = method.separability(model, letters)
    best = max(found, key=lambda site: (found[site], -site.layer))
    assert method.fit(model, letters).edits[0].intervention.site == best


def test_a_site_without_the_difference_loses(
    model: Model, sae: SAE, tiny_sae: Callable[..., SAE], monkeypatch: pytest.MonkeyPatch,
    letters: Contrast,
) -> None:  # fmt: skip
    other = tiny_sae(model, "resid_post.0")
    method = LFSteering(other, [sae])
    scores = {other.site: 0.6, sae.site: 0.9}
    monkeypatch.setattr(LFSteering, "separability", lambda *_: scores)
    assert method.fit(model, letters).edits[0].intervention.site == sae.site
    scores[other.site] = 0.9
    assert method.fit(model, letters).edits[0].intervention.site == other.site


def test_a_site_that_is_asked_for_picks_its_sae_and_no_other_is_taken(
    model: Model, sae: SAE, tiny_sae: Callable[..., SAE], letters: Contrast
) -> None:
    method = LFSteering(sae, [tiny_sae(model, f"resid_post.{layer}") for layer in (0, 3)])
    for asked in ("resid_post.0", "resid_post.3", SITE):
        assert str(method.fit(model, letters, asked).edits[0].intervention.site) == asked
    with pytest.raises(SiteError, match=r"site is resid_post\.1, but SAE .* and SAE .* is of"):
        method.fit(model, letters, "resid_post.1")


def test_errors(model: Model, sae: SAE, tiny_sae: Callable[..., SAE], letters: Contrast) -> None:
    with pytest.raises(ConfigError, match="n_features is 0"):
        LFSteering(sae, n_features=0)
    wide = replace(tiny_sae(model, "neurons.1"), site=sae.site)
    with pytest.raises(DimensionError, match="of width 64"):
        LFSteering(sae, [wide]).fit(model, letters)
    silent = replace(sae, threshold=torch.full_like(sae.threshold, 1e6))
    with pytest.raises(ContrastError, match="no latent of SAE tiny-sae differs"):
        LFSteering(silent).fit(model, letters)
