"""Contrastive search: a planted feature is found, and its figures are those of plain arithmetic."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from saesteer.data.contrast import Contrast, Example
from saesteer.errors import ConfigError, ContrastError, DimensionError
from saesteer.features.activations import read_activations
from saesteer.features.find import LatentStats, find_features, latent_stats, rank_features
from saesteer.models.sites import Site

SITE = Site(0, "resid_pre")
PLANTED = 11
NAMES = ["day", "meal", "road", "house", "song", "walk", "letter", "boat", "room", "chair"]
CONTRAST = Contrast.from_texts(
    [f"a zzz {name}" for name in NAMES], [f"a qqq {name}" for name in NAMES], name="z"
)


def flipped(contrast: Contrast) -> Contrast:
    return Contrast(tuple(replace(e, label=1 - e.label) for e in contrast.examples))


@pytest.fixture
def planted(tiny_model: Any, tiny_sae: Any) -> tuple[Any, Any]:
    """A model, and an SAE in which one feature reads how the labels' means differ, and no other."""
    model = tiny_model("llama")
    sae = tiny_sae(model, SITE)
    sides = [
        torch.cat(read_activations(model, side, SITE)).mean(0)
        for side in (CONTRAST.positives, CONTRAST.negatives)
    ]
    w_enc, b_enc = sae.w_enc.clone(), sae.b_enc.clone()
    direction = sides[0] - sides[1]
    direction = direction / direction.norm()
    w_enc -= direction.unsqueeze(1) * (direction @ w_enc)
    w_enc[:, PLANTED] = direction * 5
    middle = (sides[0] + sides[1]) / 2 - (sae.b_dec if sae.apply_b_dec_to_input else 0)
    b_enc[PLANTED] = -5 * (middle @ direction)
    return model, replace(sae, w_enc=w_enc, b_enc=b_enc)


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_a_planted_feature_comes_first(planted: tuple[Any, Any], pool: Any) -> None:
    found = find_features(*planted, CONTRAST, top=3, pool=pool)
    assert found[0].index == PLANTED
    assert found[0].auroc > 0.9
    assert found[0].mean_pos > found[0].mean_neg
    assert [f.score for f in found] == sorted((f.score for f in found), reverse=True)


@pytest.mark.parametrize("pool", ["mean", "max", "last", "rate"])
def test_latents_are_pooled_as_asked(planted: tuple[Any, Any], pool: Any) -> None:
    model, sae = planted
    ways = {
        "mean": lambda z: z.mean(0),
        "max": lambda z: z.amax(0),
        "last": lambda z: z[-1],
        "rate": lambda z: (z > 0).float().mean(0),
    }
    texts = CONTRAST.examples
    rows = read_activations(model, texts, SITE, drop_outliers=True)
    expected = torch.stack([ways[pool](sae.encode(h)) for h in rows])
    got = latent_stats(model, sae, texts, pool=pool).pooled
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_pool_that_does_not_exist_is_refused(planted: tuple[Any, Any]) -> None:
    stats = inspect.unwrap(latent_stats)  # without the tests' own check of types
    with pytest.raises(ConfigError, match="pool 'avg' does not exist; expected mean, max, last"):
        stats(*planted, CONTRAST.examples, pool="avg")


def test_the_figures_are_those_of_plain_arithmetic(planted: tuple[Any, Any]) -> None:
    model, sae = planted
    train = CONTRAST.split("train")
    latents = [sae.encode(h) for h in read_activations(model, train.examples, SITE)]
    pooled = torch.stack([z.mean(0) for z in latents])
    every = torch.cat(latents)
    positive = torch.tensor([e.label == 1 for e in train.examples])
    for found in find_features(model, sae, CONTRAST, top=5):
        column = pooled[:, found.index]
        assert found.mean_pos == pytest.approx(column[positive].mean().item(), rel=1e-3)
        assert found.mean_neg == pytest.approx(column[~positive].mean().item(), rel=1e-3, abs=1e-6)
        assert found.max_activation == pytest.approx(every[:, found.index].max().item(), rel=1e-3)
        assert found.density == pytest.approx((every[:, found.index] > 0).float().mean().item())


def test_swapping_labels_turns_the_planted_feature_around(planted: tuple[Any, Any]) -> None:
    model, sae = planted
    forward, back = (
        {f.index: f for f in find_features(model, sae, contrast, top=sae.d_sae)}
        for contrast in (CONTRAST, flipped(CONTRAST))
    )
    assert set(forward) == set(back)
    for index, found in forward.items():
        assert found.auroc == pytest.approx(1 - back[index].auroc, abs=1e-6)
        assert found.effect_size == pytest.approx(-back[index].effect_size, abs=1e-5)
        assert (found.mean_pos, found.mean_neg) == (back[index].mean_neg, back[index].mean_pos)
    assert forward[PLANTED].score > 0 >= back[PLANTED].score


def test_batches_do_not_change_what_is_found(planted: tuple[Any, Any]) -> None:
    one, many = (find_features(*planted, CONTRAST, top=8, batch_size=b) for b in (1, 16))
    assert [f.index for f in one] == [f.index for f in many]
    assert [f.score for f in one] == pytest.approx([f.score for f in many], rel=1e-3)


def test_a_feature_of_too_few_texts_is_not_ranked() -> None:
    pooled = torch.zeros(8, 3)
    pooled[:2, 0], pooled[:3, 1], pooled[:, 2] = 5.0, 1.0, 1.0
    stats = LatentStats(pooled, (pooled > 0).sum(0).float(), pooled.amax(0), n_tokens=8)
    positive = torch.arange(8) < 4
    assert [f.index for f in rank_features(stats, positive, top=9, min_examples=3)] == [1, 2]
    assert rank_features(stats, positive, top=9, min_examples=9) == []


def test_of_two_features_that_separate_alike_the_rarer_wins() -> None:
    pooled = (torch.arange(8) < 4).float().unsqueeze(1).expand(8, 2) + torch.rand(8, 1) / 10
    stats = LatentStats(pooled, torch.tensor([60.0, 6.0]), pooled.amax(0), n_tokens=80)
    ranked = rank_features(stats, torch.arange(8) < 4, top=2)
    assert [f.index for f in ranked] == [1, 0]
    assert ranked[0].auroc == ranked[1].auroc == 1.0


def test_a_feature_whose_mean_speaks_for_the_negatives_is_not_turned_around() -> None:
    """One loud negative outweighs many quiet positives: AUROC above 1/2, effect size below 0."""
    pooled = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 50.0]).unsqueeze(1)
    stats = LatentStats(pooled, torch.tensor([5.0]), pooled.amax(0), n_tokens=80)
    (found,) = rank_features(stats, torch.arange(8) < 4, top=1)
    assert found.auroc > 0.5
    assert found.effect_size < 0
    assert found.score < 0


def test_measured_features_come_first_by_their_effect(planted: tuple[Any, Any]) -> None:
    plain = find_features(*planted, CONTRAST, top=6)
    found = find_features(*planted, CONTRAST, top=6, effects=4)
    effects = [f.logit_effect for f in found[:4]]
    assert None not in effects
    assert effects == sorted(effects, reverse=True)  # type: ignore[type-var]
    assert {f.index for f in found[:4]} == {f.index for f in plain[:4]}
    assert found[4:] == plain[4:]
    assert len(find_features(*planted, CONTRAST, top=2, effects=4)) == 2


def test_a_contrast_too_small_for_a_validation_split_is_measured_on_itself(
    planted: tuple[Any, Any],
) -> None:
    small = Contrast(tuple(replace(e, split="train") for e in CONTRAST.examples))
    assert find_features(*planted, small, top=1, effects=1)[0].logit_effect is not None


def test_a_text_of_outliers_alone_pools_to_zero(
    planted: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "saesteer.features.find.kept_tokens", lambda _, batch: torch.zeros_like(batch.own)
    )
    stats = latent_stats(*planted, [Example("a b", 1)])
    assert stats.n_tokens == 0
    assert not stats.pooled.any()


def test_results_are_json(planted: tuple[Any, Any]) -> None:
    found = find_features(*planted, CONTRAST, top=1)[0]
    assert json.loads(json.dumps(found.to_dict()))["index"] == found.index


def test_errors(planted: tuple[Any, Any]) -> None:
    model, sae = planted
    one_split = Contrast(tuple(replace(e, split="test") for e in CONTRAST.examples))
    with pytest.raises(ContrastError, match="it has no examples"):
        find_features(model, sae, one_split)
    narrow = replace(
        sae, w_enc=sae.w_enc[:-2], w_dec=sae.w_dec[:, :-2].contiguous(), b_dec=sae.b_dec[:-2]
    )
    with pytest.raises(DimensionError, match="reads activations of width 30, but .* has width 32"):
        find_features(model, narrow, CONTRAST)
    for given, words in ((["a", "b"], "a list is no contrast"), ("ocean", "Contrast.read.'ocean'")):
        with pytest.raises(ContrastError, match=words):
            inspect.unwrap(find_features)(model, sae, given)
