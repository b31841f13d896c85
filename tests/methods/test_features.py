"""Steering by features and by a random feature: which one, in what direction, how far."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saesteer.data.contrast import Contrast
from saesteer.errors import FeatureError, SiteError
from saesteer.features import find_features
from saesteer.features.find import latent_stats
from saesteer.methods import FeatureSteering, RandomFeature
from saesteer.methods.directions import unit_sum
from saesteer.methods.feature_steering import CLAMP_MULTIPLE
from saesteer.models import Model, Site, record
from saesteer.saes import SAE
from saesteer.steer import Plan

SITE = Site.parse("resid_post.2")
TEXT = "some words of no kind"


def resids(model: Model, plan: Plan) -> tuple[Tensor, Tensor]:
    """The residual of `TEXT` where tokens are generated, before and after the edit."""
    batch = model.tokenize(TEXT)
    clean = record(model, batch, [SITE])[SITE][0, 3:]
    after = Site(SITE.layer + 1, "resid_pre")
    with plan.on(model, prompt_lengths=[4]):
        return clean, record(model, batch, [after])[after][0, 3:]


def test_adding_moves_along_the_decoder_row_by_a_share_of_the_norm(
    model: Model, sae: SAE, letters: Contrast
) -> None:
    plan = FeatureSteering(sae, feature=7, dose=0.4).fit(model, letters)
    clean, steered = resids(model, plan * 0.5)
    change = steered - clean
    row = torch.nn.functional.normalize(sae.w_dec[7], dim=0)
    assert torch.allclose(change @ row, change.norm(dim=-1), rtol=1e-3)
    ratio = change.norm(dim=-1) / clean.norm(dim=-1)
    assert float(ratio.max()) == pytest.approx(0.2, rel=1e-2)


def test_clamping_holds_a_multiple_of_the_train_maximum(
    model: Model, sae: SAE, letters: Contrast
) -> None:
    peak = latent_stats(model, sae, letters.split("train").examples).peak
    feature = int(peak.argmax())
    plan = FeatureSteering(sae, feature=feature, mode="clamp").fit(model, letters)
    clean, steered = resids(model, plan)
    wanted = CLAMP_MULTIPLE * peak[feature] - sae.encode(clean)[:, feature]
    assert torch.allclose((steered - clean) @ sae.w_dec[feature], wanted, rtol=1e-3, atol=1e-3)


def test_a_strength_factor_counts_in_maximum_activations(
    model: Model, sae: SAE, letters: Contrast
) -> None:
    peak = latent_stats(model, sae, letters.split("train").examples).peak
    feature = int(peak.argmax())
    method = FeatureSteering(sae, feature=feature, mode="add-max", multiple=0.5)
    clean, steered = resids(model, method.fit(model, letters) * 3.0)
    assert method.name == f"feature {feature}, plus 0.5 x max"
    expected = 1.5 * peak[feature] * sae.w_dec[feature]
    assert torch.allclose(steered - clean, expected.expand_as(clean), rtol=1e-3, atol=1e-4)


def test_found_features_are_those_of_the_search(model: Model, sae: SAE, letters: Contrast) -> None:
    by_activation = FeatureSteering(sae, n_features=3, select="activation").find(model, letters)
    assert by_activation == find_features(model, sae, letters, top=3)


def test_choosing_by_effect_takes_the_largest_effect_of_the_candidates(
    model: Model, sae: SAE, letters: Contrast
) -> None:
    (found,) = FeatureSteering(sae, n_candidates=4).find(model, letters)
    candidates = find_features(model, sae, letters, top=4, effects=4)
    effects = [c.logit_effect for c in candidates if c.logit_effect is not None]
    assert len(effects) == 4
    assert found.logit_effect == max(effects)


def test_several_features_share_one_direction(sae: SAE) -> None:
    direction = unit_sum(sae, [1, 5, 9])
    cosines = torch.nn.functional.normalize(sae.w_dec[[1, 5, 9]], dim=-1) @ direction
    assert float(direction.norm()) == pytest.approx(1.0, abs=1e-5)
    assert float(cosines.min()) > 0


def test_it_acts_at_the_saes_site_and_refuses_another(
    model: Model, sae: SAE, letters: Contrast
) -> None:
    for method in (FeatureSteering(sae, feature=1), RandomFeature(sae)):
        for site in (None, SITE):
            plan = method.fit(model, letters, site)
            assert [edit.intervention.site for edit in plan.edits] == [SITE]
        with pytest.raises(SiteError, match=r"site is resid_post\.0, but SAE .* is of resid_post"):
            method.fit(model, letters, "resid_post.0")


def test_a_feature_outside_the_sae_is_refused(model: Model, sae: SAE, letters: Contrast) -> None:
    with pytest.raises(FeatureError, match="feature 96 does not exist"):
        FeatureSteering(sae, feature=96).fit(model, letters)


def test_a_dead_feature_cannot_be_clamped(model: Model, sae: SAE, letters: Contrast) -> None:
    dead = dead_but(sae, [3])
    with pytest.raises(FeatureError, match="feature 5 never fires on letters"):
        FeatureSteering(dead, feature=5, mode="clamp").fit(model, letters)


def test_a_random_feature_is_alive(model: Model, sae: SAE, letters: Contrast) -> None:
    live = int(latent_stats(model, sae, letters.split("train").examples).fired.argmax())
    only = dead_but(sae, [live])
    assert {RandomFeature(only, seed).draw(model, letters) for seed in range(5)} == {live}
    with pytest.raises(FeatureError, match="no feature fires"):
        RandomFeature(dead_but(sae, []), 0).draw(model, letters)


def test_random_features_differ_by_seed_and_not_by_run(
    model: Model, sae: SAE, letters: Contrast
) -> None:
    draws = [RandomFeature(sae, seed).draw(model, letters) for seed in range(8)]
    assert draws == [RandomFeature(sae, seed).draw(model, letters) for seed in range(8)]
    assert len(set(draws)) > 1


def test_a_random_feature_has_the_norm_it_is_given(
    model: Model, sae: SAE, letters: Contrast
) -> None:
    clean, steered = resids(model, RandomFeature(sae, 0, norm=3.0).fit(model, letters))
    assert float((steered - clean).norm(dim=-1).mean()) == pytest.approx(3.0, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "feature"),
        ({"feature": 7}, "feature 7"),
        ({"n_features": 3}, "3 features"),
        ({"mode": "clamp"}, "feature, clamped"),
    ],
)
def test_names_say_what_is_steered(sae: SAE, settings: dict[str, object], name: str) -> None:
    assert FeatureSteering(sae, **settings).name == name  # pyright: ignore[reportArgumentType]


def dead_but(sae: SAE, live: list[int]) -> SAE:
    """The same SAE with every other feature's threshold out of reach."""
    from dataclasses import replace

    threshold = torch.full_like(sae.threshold, 1e9)
    threshold[live] = sae.threshold[live]
    return replace(sae, threshold=threshold)
