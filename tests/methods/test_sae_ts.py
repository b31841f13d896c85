"""SAE-TS: the inverse of a planted linear map, and effects measured on text that was written."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError, FeatureError
from saesteer.features import find_features
from saesteer.methods import SAETS
from saesteer.methods.base import DOSE
from saesteer.methods.output_effects import output_effects
from saesteer.methods.sae_ts import target_direction
from saesteer.models import Model, TokenBatch, install, record
from saesteer.saes import SAE
from saesteer.steer.norms import typical_norm

SITE = "resid_post.2"
PROMPTS = ["the rain", "a small boat in"]


def test_the_direction_inverts_a_planted_map_and_drops_what_all_vectors_do() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(12, 30, generator=generator, dtype=torch.float64)
    bias = 3 * torch.rand(30, generator=generator, dtype=torch.float64)
    units = functional.normalize(torch.randn(4000, 12, generator=generator), dim=-1)
    effects = (units.double() @ weight + bias).float()
    got = target_direction(units, effects, 7)
    towards = functional.normalize(weight[:, 7], dim=0)
    side = functional.normalize(weight @ bias, dim=0)
    expected = functional.normalize(towards - side, dim=0).float()
    assert torch.allclose(got, expected, atol=1e-3)
    assert float(got @ side.float()) < 0 < float(got @ towards.float())


@torch.no_grad()
def test_effects_are_those_of_the_written_tokens_as_the_plain_model_reads_them(
    model: Model, sae: SAE
) -> None:
    draw = torch.Generator().manual_seed(2)
    vector = functional.normalize(torch.randn(sae.d_model, generator=draw), dim=0)
    norm = 0.5 * typical_norm(model, sae.site)

    def mean(push: float) -> torch.Tensor:
        kept = []
        for prompt in PROMPTS:
            ids = model.tokenize(prompt).input_ids
            n_prompt = ids.shape[1]
            for _ in range(4):
                steered = ~torch.isin(ids, torch.tensor(sorted(model.special_ids)))
                steered[:, : n_prompt - 1], steered[:, n_prompt - 1] = False, True

                def edit(resid: torch.Tensor, at: torch.Tensor = steered) -> torch.Tensor:
                    return resid + push * vector * at[..., None]

                handle = install(model.layout.point(sae.site), edit)
                logits = model.forward(TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool)))
                handle.remove()
                logits[..., model.hf.config.eos_token_id] = -torch.inf
                ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
            whole = TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool))
            kept.append(sae.encode(record(model, whole, [sae.site])[sae.site][0, n_prompt:]))
        return torch.cat(kept).mean(0)

    expected = mean(norm) - mean(0.0)
    got = output_effects(model, sae, vector[None], 0.5, PROMPTS, n_tokens=4)[0]
    assert expected.abs().max() > 0.1
    assert torch.allclose(got, expected, atol=1e-3)


def test_no_dose_has_no_effect(model: Model, sae: SAE) -> None:
    units = functional.normalize(torch.randn(2, sae.d_model), dim=-1)
    assert not output_effects(model, sae, units, 0.0, PROMPTS, n_tokens=3).any()


def test_the_target_is_the_contrasts_best_feature_unless_given(
    model: Model, sae: SAE, letters: Contrast
) -> None:
    best = find_features(model, sae, letters, top=1)[0].index
    settings = {"n_vectors": 5, "n_tokens": 3, "prompts": PROMPTS, "vectors": "decoder"}
    found = SAETS(sae, **settings).fit(model, letters)
    given = SAETS(sae, feature=best, **settings).fit(model, letters)
    vectors = [plan.edits[0].intervention.vector for plan in (found, given)]
    assert torch.equal(*vectors)
    assert float(vectors[0].norm()) == pytest.approx(DOSE, abs=1e-5)


def test_errors(model: Model, sae: SAE, letters: Contrast) -> None:
    with pytest.raises(ConfigError, match="n_vectors is 0, expected 1 or more"):
        SAETS(sae, n_vectors=0)
    with pytest.raises(ConfigError, match=r"prompts is \[\], expected a list of one or more"):
        SAETS(sae, prompts=[])
    with pytest.raises(FeatureError, match="feature 96 does not exist"):
        SAETS(sae, feature=96).fit(model, letters)
    threshold = sae.threshold.clone()
    threshold[9] = 1e6
    mute = replace(sae, threshold=threshold)
    with pytest.raises(FeatureError, match="feature 9 is the same in every steered text"):
        SAETS(mute, feature=9, n_vectors=2, n_tokens=2, prompts=PROMPTS).fit(model, letters)
