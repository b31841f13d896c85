"""Directional ablation, CAST and Breaking Bad Tokens: what they choose, and when they act."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from saesteer.data.contrast import Contrast
from saesteer.errors import ContrastError, DimensionError, SiteError
from saesteer.features import change_effects, read_activations
from saesteer.methods import CAST, AurA, BreakingBadTokens, DirectionalAblation, LinearAcT, RepE
from saesteer.methods.cast import _splits
from saesteer.models import Model, Site, record
from saesteer.saes import SAE
from saesteer.steer import Always, PromptCondition

SITE = Site.parse("resid_post.2")
TEXTS = ["some words of no kind", "x"]


def direction(plan: Any) -> torch.Tensor:
    return plan.edits[0].intervention.basis[0]


@pytest.mark.parametrize("arch", ["llama", "gpt2", "neox", "gemma3"])
def test_the_direction_is_gone_from_the_whole_stream(
    tiny_model: Any, letters: Contrast, arch: str
) -> None:
    model = tiny_model(arch)
    plan = DirectionalAblation(n_candidates=1).fit(model, letters)
    batch = model.tokenize(TEXTS, padding_side="right")
    last = Site(model.n_layers - 1, "resid_post")
    sites = [Site(layer, "resid_post") for layer in range(model.n_layers - 1)]
    unit = direction(plan)
    plain = record(model, batch, [last])[last][batch.attention_mask] @ unit
    with plan.on(model):
        found = record(model, batch, sites)
    for resid in found.values():
        kept = resid[batch.attention_mask]
        assert float((kept @ unit).abs().max()) < 1e-4 * float(kept.norm(dim=-1).max())
    assert float(plain.abs().max()) > 0.1


def test_the_candidate_that_favours_the_kept_side_most_is_chosen(
    model: Model, letters: Contrast
) -> None:
    held = letters.split("validation")
    effects = {}
    for remove in ("negatives", "positives"):
        plan = DirectionalAblation(remove=remove).fit(model, letters)
        effects[remove] = change_effects(model, held, [plan.on(model)])[0].mean
    assert effects["negatives"] > effects["positives"]


def test_changes_are_measured_as_features_are(model: Model, sae: SAE, letters: Contrast) -> None:
    """A plan that does what `logit_effects` does to a feature has the same effect."""
    from saesteer import steer
    from saesteer.features import logit_effects

    (expected,) = logit_effects(model, sae, letters, [3], dose=1e-3)
    row = functional.normalize(sae.w_dec[3], dim=0)
    edit = steer.add_scaled(SITE, row * 1e-3, typical_norm=1e6)
    plan = steer.Plan(edit, where=steer.all(special=True))
    (got,) = change_effects(model, letters, [plan.on(model)])
    assert got.n_pairs == expected.n_pairs
    assert got.mean == pytest.approx(expected.mean, rel=0.05, abs=1e-5)


def test_repit_leaves_the_other_concepts_alone(model: Model, letters: Contrast) -> None:
    other = Contrast.from_texts([f"aa {i} m" for i in range(8)], [f"zz {i} o" for i in range(8)])
    method = DirectionalAblation(others=[other], positions=["mean"], n_candidates=20)
    plan = method.fit(model, letters)
    assert plan.name == method.name == "RepIt"
    kept = []
    for layer in range(3):
        site = Site(layer, "resid_post")
        train = other.split("train")
        sides = [
            torch.stack([r.mean(0) for r in read_activations(model, side, site)]).mean(0)
            for side in (train.positives, train.negatives)
        ]
        cosine = functional.cosine_similarity(direction(plan), sides[0] - sides[1], dim=0)
        kept.append(abs(float(cosine)))
    assert min(kept) < 1e-3
    with pytest.raises(ContrastError, match="other concepts"):
        DirectionalAblation(others=[letters]).fit(model, letters)
    with pytest.raises(ContrastError, match="'nothing' is neither a file nor a built-in"):
        DirectionalAblation(others=["nothing"]).fit(model, letters)


def test_cast_adds_its_vector_to_the_rows_that_meet_the_condition(
    model: Model, letters: Contrast
) -> None:
    plan = CAST(letters).fit(model, letters, SITE)
    vector: Any = RepE(read="mean").fit(model, letters, SITE).edits[0].intervention
    act: Any = plan.edits[0].intervention
    assert torch.equal(act.vector, vector.vector)
    held = letters.split("test").examples
    with plan.on(model) as trace:
        model.generate([e.text for e in held], max_new_tokens=3)
    edited = trace.passes[-1].touched[SITE].squeeze(-1).tolist()
    assert edited == [e.label == 1 for e in held]
    assert trace.n_edited == 3 * sum(e.label for e in held)


def test_casts_condition_splits_validation_best(model: Model, letters: Contrast) -> None:
    plan = CAST().fit(model, letters, SITE)
    gate = plan.edits[0].gate
    assert isinstance(gate, PromptCondition)
    assert gate.site.layer <= SITE.layer
    scores = torch.tensor([0.1, 0.2, 0.7, 0.9])
    labels = torch.tensor([True, True, False, False])
    best = max(_splits(scores, labels, 0))
    assert best[0] == 1.0
    assert best[3] == pytest.approx(0.45)
    assert best[4] is False


def test_bad_tokens_fire_in_excess(model: Model, sae: SAE, letters: Contrast) -> None:
    plan = BreakingBadTokens(sae, n_features=2).fit(model, letters)
    act: Any = plan.edits[0].intervention
    train = letters.split("train")
    sides = [
        torch.cat([sae.encode(rows) for rows in read_activations(model, side, SITE)])
        for side in (train.negatives, train.positives)
    ]
    excess = (sides[0] > 0).float().mean(0) - (sides[1] > 0).float().mean(0)
    assert set(act.reader.features) <= set(excess.topk(3).indices.tolist())
    peaks = sides[0].amax(0)[list(act.reader.features)]
    assert torch.allclose(act.amount, -peaks, rtol=1e-3)
    assert isinstance(plan.edits[0].gate, Always)
    flipped: Any = BreakingBadTokens(sae, remove="positives").fit(model, letters).edits[0]
    assert not set(flipped.intervention.reader.features) & set(act.reader.features)


def test_the_three_tiers_act_always_by_prompt_and_by_token(
    model: Model, sae: SAE, letters: Contrast
) -> None:
    lengths = model.tokenize(TEXTS, padding_side="right")
    for tier in ("constant", "input", "token"):
        plan = BreakingBadTokens(sae, tier, n_features=1).fit(model, letters)
        act: Any = plan.edits[0].intervention
        fires = record(model, lengths, [SITE])[SITE]
        fires = sae.encode(fires)[..., act.reader.features[0]] > 0
        with plan.on(model, prompt_lengths=[2, 1]) as trace:
            model.forward(lengths)
        touched = trace.passes[0].touched[SITE]
        after = torch.arange(touched.shape[1]) >= torch.tensor([[1], [0]])
        where = after & lengths.attention_mask
        special = torch.isin(lengths.input_ids, model.special_ids)
        match tier:
            case "constant":
                expected = where
            case "input":
                prompt = (
                    fires & ~special & (torch.arange(touched.shape[1]) < torch.tensor([[2], [1]]))
                )
                expected = where & prompt.any(-1, keepdim=True)
            case _:
                expected = where & fires
        assert torch.equal(touched, expected & ~special)


def test_an_sae_of_another_width_is_refused(
    model: Model, letters: Contrast, tiny_sae: Callable[..., SAE]
) -> None:
    wide = replace(tiny_sae(model, "neurons.1"), site=Site.parse("resid_post.1"))
    with pytest.raises(DimensionError, match="width 64, but tiny-llama has width 32"):
        BreakingBadTokens(wide).fit(model, letters)


def test_features_that_fire_alike_are_refused(model: Model, sae: SAE) -> None:
    same = Contrast.from_texts(["the sé"] * 5, ["the sü"] * 5, name="same")  # both unknown
    with pytest.raises(ContrastError, match="same: no feature of SAE tiny-sae fires more on its"):
        BreakingBadTokens(sae).fit(model, same)


@pytest.mark.parametrize("kind", [AurA, CAST, DirectionalAblation, LinearAcT])
def test_a_site_that_does_not_exist_is_refused(model: Model, letters: Contrast, kind: Any) -> None:
    with pytest.raises(SiteError, match="layer 40 does not exist"):
        kind().fit(model, letters, "resid_post.40")
