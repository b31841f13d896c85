"""Output scores: by hand, on a feature planted to speak, and as a way to choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError, ContrastError, FeatureError
from saesteer.features import find_features
from saesteer.features.lens import lens_weights
from saesteer.features.output_score import AMPLIFY, LENS_TOKENS, output_scores, score_of
from saesteer.methods import OutputScore
from saesteer.methods.directions import unit_sum
from saesteer.models import Model, install, record
from saesteer.saes import SAE

SITE = "resid_post.3"
PROMPT = "in the rain"


@pytest.fixture(scope="module")
def sae(tiny_sae: Callable[..., SAE], model: Model) -> SAE:
    return tiny_sae(model, SITE)


def test_a_score_is_best_probability_times_how_high_it_ranks() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.1, 0.15, 0.25], [0.5, 0.1, 0.15, 0.25]]))
    found = score_of(logits, torch.tensor([[1, 2], [0, 3]]))
    assert found.tolist() == pytest.approx([(1 - 2 / 4) * 0.15, 1.0 * 0.5])


@torch.no_grad()
def test_it_is_the_last_token_pushed_by_ten_times_the_largest_latent(
    model: Model, sae: SAE
) -> None:
    batch = model.tokenize(PROMPT)
    site = sae.site
    largest = float(sae.encode(record(model, batch, [site])[site][0, -1]).max())
    for feature in (3, 40):

        def splice(resid: torch.Tensor, feature: int = feature) -> torch.Tensor:
            latents = sae.encode(resid)
            error = resid - sae.decode(latents)
            latents[0, -1, feature] += AMPLIFY * largest
            return sae.decode(latents) + error

        handle = install(model.layout.point(site), splice)
        chances = model.forward(batch)[0, -1].softmax(-1)
        handle.remove()
        tokens = lens_weights(model, sae.w_dec[[feature]])[0].topk(LENS_TOKENS).indices
        order = chances.argsort(descending=True).tolist()
        rank = min(order.index(token) for token in tokens.tolist())
        expected = (1 - rank / len(chances)) * float(chances[tokens].max())
        (score,) = output_scores(model, sae, [feature], prompt=PROMPT)
        assert score == pytest.approx(expected, rel=1e-4)


def test_a_row_that_writes_a_token_scores_above_one_that_only_shifts_them_all(
    model: Model, sae: SAE
) -> None:
    unembed = model.layout.unembed.weight.detach()
    w_dec = sae.w_dec.clone()
    w_dec[5] = torch.nn.functional.normalize(unembed[70] - unembed.mean(0), dim=0)
    basis = torch.linalg.svd(unembed).Vh
    w_dec[6] = basis[-1]
    speaks, mute = output_scores(model, replace(sae, w_dec=w_dec), [5, 6], prompt=PROMPT)
    assert speaks > 2 * mute


def test_scores_don_t_depend_on_what_is_scored_beside(model: Model, sae: SAE) -> None:
    together = output_scores(model, sae, range(9), batch_size=4)
    assert together == pytest.approx([output_scores(model, sae, [f])[0] for f in range(9)])
    assert output_scores(model, sae, []) == []


def test_the_method_steers_by_the_best_candidates_among_those_that_speak(
    model: Model, sae: SAE, letters: Contrast
) -> None:
    found = [f.index for f in find_features(model, sae, letters, top=12)]
    scores = dict(zip(found, output_scores(model, sae, found), strict=True))
    loudest = sorted(found, key=lambda f: -scores[f])
    least = scores[loudest[5]]
    speak = [f for f in found if scores[f] >= least]
    assert set(speak[:3]) not in (set(found[:3]), set(loudest[:3]))
    for limit, wanted in ((least, speak[:3]), (2.0, loudest[:3])):
        method = OutputScore(sae, n_features=3, n_candidates=12, least=limit, dose=0.5)
        act: Any = method.fit(model, letters).edits[0].intervention
        assert torch.equal(act.vector, 0.5 * unit_sum(sae, wanted))


def test_errors(model: Model, sae: SAE, letters: Contrast) -> None:
    with pytest.raises(ConfigError, match="n_candidates is 0, expected 1 or more"):
        OutputScore(sae, n_candidates=0)
    with pytest.raises(FeatureError, match="feature 96 does not exist"):
        output_scores(model, sae, [96])
    silent = replace(sae, threshold=torch.full_like(sae.threshold, 1e6))
    with pytest.raises(ContrastError, match="no feature of SAE tiny-sae fires"):
        OutputScore(silent).fit(model, letters)
