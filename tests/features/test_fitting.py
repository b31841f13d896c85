"""Readouts and thresholds find what was planted, by their own definition."""

from __future__ import annotations

import inspect

import pytest
import torch

from saesteer.errors import ConfigError, ContrastError
from saesteer.features.concepts import CosineReadout, FeatureReadout, ProbeReadout
from saesteer.features.fitting import fit_readout, most_separating, softmax_regression
from saesteer.features.thresholds import calibrate, choose_threshold
from saesteer.models import Site

SITE = Site.parse("resid_post.1")


def latents(n: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Feature 3 marks half of the positives, feature 7 the other half, feature 5 negatives."""
    generator = torch.Generator().manual_seed(0)
    positive = torch.arange(n) % 2 == 0
    rows = 0.1 * torch.rand(n, 12, generator=generator)
    first = torch.arange(n) % 4 == 0
    rows[:, 3] += 1.0 * first
    rows[:, 7] += 1.0 * (positive & ~first)
    rows[:, 5] += 0.5 * ~positive
    return rows, positive


def test_the_features_that_differ_most_come_first():
    rows, positive = latents()
    assert most_separating(rows, positive, 3)[0] == 5
    assert set(most_separating(rows, positive, 3)) == {3, 5, 7}


def test_several_features_read_what_one_can_not():
    rows, positive = latents()
    rows[:, 5] = 0
    found = fit_readout("features", rows, positive, SITE, n_features=2)
    assert isinstance(found, FeatureReadout)
    assert set(found.features) == {3, 7}
    scores = rows[:, list(found.features)] @ torch.tensor(found.weights)
    cut = choose_threshold(scores, positive)
    assert bool(((scores > cut) == positive).all())


def test_dense_readouts_point_from_negatives_to_positives():
    rows, positive = latents()
    cosine = fit_readout("cosine", rows, positive, SITE)
    assert isinstance(cosine, CosineReadout)
    torch.testing.assert_close(cosine.vector, rows[positive].mean(0) - rows[~positive].mean(0))
    probe = fit_readout("probe", rows, positive, SITE)
    assert isinstance(probe, ProbeReadout)
    assert bool(((rows @ probe.weight + probe.bias > 0) == positive).all())


def test_rows_of_one_label_are_refused():
    rows, _ = latents(10)
    with pytest.raises(ContrastError, match="all 10 rows have one label"):
        fit_readout("feature", rows, torch.ones(10, dtype=torch.bool), SITE)


def test_labels_that_exclude_each_other_are_told_by_the_greatest_logit():
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(300) % 3
    rows = torch.randn(300, 6, generator=generator) + 3.0 * torch.eye(6)[labels]
    weight, bias = softmax_regression(rows, labels, 3)
    assert weight.shape == (3, 6)
    assert float(((rows @ weight.T + bias).argmax(-1) == labels).float().mean()) > 0.95
    shifted, _ = softmax_regression(10 * rows + 7, labels, 3)
    torch.testing.assert_close(10 * shifted, weight, rtol=0.02, atol=0.01)
    with pytest.raises(ContrastError, match="all 300 rows have one label"):
        softmax_regression(rows, labels, 4)


def test_a_threshold_lies_between_the_labels():
    scores = torch.tensor([0.0, 1.0, 3.0, 4.0])
    assert choose_threshold(scores, torch.tensor([False, False, True, True])) == 2.0


def test_of_equally_good_cuts_the_middle_one_is_chosen():
    negative, positive = [0.0, 0.0, 2.0, 4.0], [1.0, 3.0, 5.0, 5.0]  # 0.5, 2.5 and 4.5: all 3 / 4
    scores = torch.tensor(negative + positive)
    assert choose_threshold(scores, torch.arange(8) >= 4) == 2.5


def test_aims_choose_different_cuts():
    scores = torch.tensor([*range(20), *range(10, 30)]).float()
    positive = torch.arange(40) >= 20
    balanced = choose_threshold(scores, positive)
    strict = choose_threshold(scores, positive, "false_positives", budget=0.0)
    assert strict > balanced
    assert not bool((scores[~positive] > strict).any())
    assert choose_threshold(scores, positive, "f1") <= strict


def test_equal_scores_fall_on_one_side():
    cut = choose_threshold(torch.tensor([1.0, 1.0]), torch.tensor([True, False]))
    assert cut != 1.0


@pytest.mark.parametrize(
    ("aim", "budget", "message"),
    [("recall", 0.1, "threshold 'recall' is none of"), ("f1", 2.0, "budget of 2")],
)
def test_aims_that_mean_nothing_are_refused(aim, budget, message):
    unchecked = inspect.unwrap(choose_threshold)  # past the type checks that tests run under
    with pytest.raises(ConfigError, match=message):
        unchecked(torch.tensor([0.0, 1.0]), torch.tensor([False, True]), aim, budget)


def test_confidences_are_shares():
    generator = torch.Generator().manual_seed(0)
    scores = 4 * torch.randn(4000, generator=generator)
    positive = torch.rand(4000, generator=generator) < torch.sigmoid(0.7 * scores - 1)
    slope, offset = calibrate(scores, positive)
    assert (slope, offset) == (pytest.approx(0.7, abs=0.08), pytest.approx(-1, abs=0.15))


def test_separable_scores_stay_finite():
    slope, offset = calibrate(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1]).bool())
    sure = torch.sigmoid(torch.tensor([offset, slope + offset]))
    assert 0.05 < sure[0] < 0.5 < sure[1] < 0.95


def test_a_label_seen_seldom_is_the_less_sure_one():
    """Two scores and two numbers to fit, so that the fit is Platt's smoothed shares themselves."""
    scores = torch.tensor([1.0] * 3 + [0.0] * 100)
    slope, offset = calibrate(scores, scores > 0)
    assert torch.sigmoid(torch.tensor(slope + offset)) == pytest.approx(4 / 5, rel=1e-2)
    assert torch.sigmoid(torch.tensor(offset)) == pytest.approx(1 / 102, rel=1e-2)


def test_a_single_feature_is_one_that_is_higher_on_the_positives():
    generator = torch.Generator().manual_seed(0)
    positive = torch.arange(60) % 2 == 0
    rows = torch.rand(60, 5, generator=generator)
    rows[:, 2] += 3.0 * ~positive
    rows[:, 4] += 1.0 * positive
    assert fit_readout("feature", rows, positive, SITE) == FeatureReadout((4,))
