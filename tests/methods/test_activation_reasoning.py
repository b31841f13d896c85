"""ActivationReasoning: readouts and thresholds by hand, rules that decide, and one dose."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from saesteer.data.contrast import Contrast
from saesteer.errors import ContrastError, RuleError
from saesteer.features import read_activations
from saesteer.features.concept_fit import balanced_cut, mean_difference
from saesteer.features.concepts import FeatureReadout
from saesteer.methods import ActivationReasoning
from saesteer.methods.activation_reasoning import ALPHA, weighted_direction
from saesteer.models import Model, Site, record
from saesteer.saes import SAE

SITE = Site.parse("resid_post.2")
TEXT = "some words of no kind"


def test_the_cut_is_that_of_best_balanced_accuracy() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(80, generator=generator) > 0.8
    scores = torch.randn(80, generator=generator) + 1.5 * labels
    got = balanced_cut(scores, labels)

    def accuracy(cut: float) -> float:
        hits, rejects = scores[labels] > cut, scores[~labels] <= cut
        return (float(hits.float().mean()) + float(rejects.float().mean())) / 2

    ordered = scores.double().sort().values.tolist()
    cuts = [(a + b) / 2 for a, b in pairwise(ordered)]
    assert accuracy(got) == pytest.approx(max(map(accuracy, cuts)))
    assert any(abs(got - cut) < 1e-9 for cut in cuts)
    parted = balanced_cut(
        torch.tensor([0.0, 1.0, 5.0, 6.0]), torch.tensor([False, False, True, True])
    )
    assert parted == 3.0
    assert balanced_cut(torch.zeros(4), labels[:4]) == 0.0


def test_single_is_the_largest_difference_and_multi_weighs_several(
    model: Model, sae: SAE, letters: Contrast
) -> None:
    difference = mean_difference(model, sae, letters)
    for sign, which in ((1, 0), (-1, 1)):
        order = (sign * difference).argsort(descending=True)
        single = ActivationReasoning(sae, readout="single").concepts(model, letters)[which]
        assert single.readout == FeatureReadout((int(order[0]),))
        multi = ActivationReasoning(sae, top_k=3).concepts(model, letters)[which].readout
        assert isinstance(multi, FeatureReadout)
        assert multi.features == tuple(order[:3].tolist())
        shares = (sign * difference)[order[:3]]
        assert multi.weights == pytest.approx((shares / shares.sum()).tolist())


def test_global_thresholds_are_those_of_text_means(
    model: Model, sae: SAE, letters: Contrast
) -> None:
    method = ActivationReasoning(sae, readout="single", scope="global")
    concept = method.concepts(model, letters)[0]
    train = letters.split("train")
    rows = read_activations(model, train.examples, SITE, drop_outliers=True)
    assert isinstance(concept.readout, FeatureReadout)
    means = [float(sae.encode(row)[:, concept.readout.features[0]].mean()) for row in rows]
    labels = torch.tensor([example.label == 1 for example in train.examples])
    assert concept.threshold == pytest.approx(balanced_cut(torch.tensor(means), labels), rel=1e-4)
    assert (concept.aggregate, concept.over) == ("prompt", "mean")


def test_an_active_head_adds_half_the_norm_along_one_unit_vector(
    model: Model, sae: SAE, letters: Contrast
) -> None:
    method = ActivationReasoning(sae, "steer :- shown. steer :- not shown.", top_k=4)
    plan = method.fit(model, letters)
    batch = model.tokenize(TEXT)
    clean = record(model, batch, [SITE])[SITE][0, 3:]
    after = Site(SITE.layer + 1, "resid_pre")
    with plan.on(model, prompt_lengths=[4]):
        change = record(model, batch, [after])[after][0, 3:] - clean
    vector = weighted_direction(sae, method.concepts(model, letters)[0].readout)
    assert torch.allclose(change @ vector, ALPHA * clean.norm(dim=-1), rtol=1e-3)
    assert torch.allclose(change.norm(dim=-1), ALPHA * clean.norm(dim=-1), rtol=1e-3)


def test_the_rule_decides_where(model: Model, sae: SAE, letters: Contrast) -> None:
    batch = model.tokenize("aa ee zz aaa xx zzz")
    opened = {}
    for rules in ("steer :- shown.", "steer :- not shown.", "steer :- shown, not shown."):
        plan = ActivationReasoning(sae, rules).fit(model, letters)
        with plan.on(model, prompt_lengths=[1]) as trace:
            model.forward(batch)
        opened[rules] = trace.passes[-1].evidence[0].open[0, 1:].tolist()
    shown, hidden, never = opened.values()
    assert any(shown)
    assert hidden == [not value for value in shown]
    assert not any(never)


def test_errors(model: Model, sae: SAE, letters: Contrast) -> None:
    with pytest.raises(RuleError, match="no rule derives 'steer'; derive steer from shown"):
        ActivationReasoning(sae, "calm :- shown.").fit(model, letters)
    with pytest.raises(RuleError, match="they name angry; derive steer"):
        ActivationReasoning(sae, "steer :- angry.").fit(model, letters)
    silent = replace(sae, threshold=torch.full_like(sae.threshold, 1e6))
    with pytest.raises(ContrastError, match="concept shown: no latent of SAE tiny-sae fires more"):
        ActivationReasoning(silent).fit(model, letters)
