"""Bootstrap intervals: coverage, reproducibility, and pairing."""

from __future__ import annotations

import numpy as np
import pytest

from saesteer.errors import DataError
from saesteer.metrics import (
    Interval,
    auroc_interval,
    bootstrap_interval,
    difference_to_sample,
    grouped_auroc_interval,
    paired_difference,
    share_interval,
)


def test_the_same_seed_gives_the_same_interval_and_another_does_not():
    values = list(range(30))
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values)


def test_the_interval_holds_the_mean_and_shrinks_with_more_values():
    rng = np.random.default_rng(0)
    few, many = (bootstrap_interval(rng.normal(3, 1, size)) for size in (20, 2000))
    for interval in (few, many):
        assert interval.low < interval.mean < interval.high
    assert many.high - many.low < 0.3 * (few.high - few.low)


def test_constant_values_have_a_point_for_an_interval():
    interval = bootstrap_interval([2.0] * 5)
    assert (interval.mean, interval.low, interval.high) == (2, 2, 2)


def test_coverage_is_near_its_level():
    rng = np.random.default_rng(0)
    hits = sum(
        not bootstrap_interval(rng.normal(1, 2, 40), seed=i, n=400).excludes(1) for i in range(200)
    )
    assert 0.88 <= hits / 200 <= 0.99


def test_a_higher_level_is_wider():
    values = np.random.default_rng(2).normal(size=50)
    narrow, wide = (bootstrap_interval(values, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_pairing_takes_out_what_the_prompts_share():
    rng = np.random.default_rng(0)
    prompts = rng.normal(0, 10, 60)
    a, b = prompts + rng.normal(0.5, 0.1, 60), prompts
    assert paired_difference(a, b).excludes(0)
    assert bootstrap_interval(a).low < bootstrap_interval(b).high
    assert paired_difference(a, b).mean == pytest.approx(float((a - b).mean()))


def test_the_difference_with_itself_is_nothing():
    assert not paired_difference([1, 2, 3], [1, 2, 3]).excludes(0)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_values_that_cannot_be_averaged_are_refused(values):
    with pytest.raises(DataError, match="finite values, one per prompt"):
        bootstrap_interval(values)


def test_pairs_must_be_pairs():
    with pytest.raises(DataError, match="got 2 and 1"):
        paired_difference([1, 2], [1])


@pytest.mark.parametrize("k", [2, 3, 5])
def test_a_sample_of_few_is_no_surer_than_it_may_be(k: int):
    """Of something as good as the mean of all directions, which differ, one interval of ten to
    twenty excludes zero; by prompts alone it is one of five to eight."""
    rng, hits, by_prompts = np.random.default_rng(k), 0, 0
    for trial in range(200):
        own = rng.normal(0, 0.3, 20)
        others = [rng.normal(mean, 0.3, 20) for mean in rng.normal(0, 0.12, k)]
        hits += difference_to_sample(own, others, seed=trial, n=300).excludes(0)
        by_prompts += paired_difference(own, np.mean(others, 0), seed=trial, n=300).excludes(0)
    assert hits <= 26
    assert by_prompts > 1.4 * hits


def test_one_of_a_sample_is_a_paired_difference():
    a, b = np.random.default_rng(5).normal(size=(2, 30))
    assert difference_to_sample(a, [b]) == paired_difference(a, b)
    several = difference_to_sample(a, [b, b])
    assert several.mean == pytest.approx(paired_difference(a, b).mean)
    assert several.low == pytest.approx(paired_difference(a, b).low, abs=0.02)


@pytest.mark.parametrize("others", [[], [[1.0, 2.0], [1.0]]])
def test_a_sample_must_have_pairs(others):
    with pytest.raises(DataError, match="difference to a sample needs pairs; got 2"):
        difference_to_sample([1.0, 2.0], others)


def test_auroc_counts_ties_as_one_half():
    scores, labels = [3.0, 1.0, 1.0, 0.0, 2.0, 1.0], [1, 1, 0, 0, 0, 1]
    pairs = [(p > n) + (p == n) / 2 for p in (3, 1, 1) for n in (1, 0, 2)]
    assert auroc_interval(scores, labels).mean == pytest.approx(sum(pairs) / 9)


def test_auroc_s_interval_is_that_of_resampled_texts():
    rng = np.random.default_rng(3)
    scores, labels = rng.normal(size=60), np.arange(60) % 3 == 0
    scores[labels] += 1
    found = auroc_interval(scores, labels)
    high, low = scores[labels], scores[~labels]
    areas = [
        (rng.choice(high, 20)[:, None] > rng.choice(low, 40)[None]).mean() for _ in range(2000)
    ]
    assert found.low == pytest.approx(np.quantile(areas, 0.025), abs=0.02)
    assert found.high == pytest.approx(np.quantile(areas, 0.975), abs=0.02)
    assert auroc_interval([1, 2, 8, 9], [0, 0, 1, 1]) == Interval(1.0, 1.0, 1.0)


@pytest.mark.parametrize("labels", [[1, 1], [0, 0], []])
def test_an_auroc_needs_both_labels(labels):
    with pytest.raises(DataError, match="scores of both labels"):
        auroc_interval([0.5] * len(labels), labels)


def test_a_share_of_one_still_has_room_below_it() -> None:
    found = share_interval([True] * 50)
    assert found.mean == found.high == 1.0
    assert found.low == pytest.approx(50 / (50 + 1.959964**2), abs=1e-5)


def test_share_intervals_agree_with_wilson() -> None:
    found = share_interval([True] * 8 + [False] * 2)
    assert (found.low, found.high) == (
        pytest.approx(0.4902, abs=1e-4),
        pytest.approx(0.9433, abs=1e-4),
    )
    narrow = share_interval([True] * 8 + [False] * 2, level=0.9)
    for bound in (narrow.low, narrow.high):  # where the normal test of its level turns
        assert abs(0.8 - bound) == pytest.approx(1.644854 * (bound * (1 - bound) / 10) ** 0.5)
    with pytest.raises(DataError, match="at least one value"):
        share_interval([])


def test_a_grouped_auroc_is_the_plain_one_with_an_interval_over_groups():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 25)
    shift = rng.normal(size=40)[groups]
    positive = rng.random(1000) < 0.3
    scores = np.round(shift * 2 + positive + rng.normal(size=1000), 1)
    plain, grouped = (
        auroc_interval(scores, positive),
        grouped_auroc_interval(scores, positive, groups),
    )
    assert grouped.mean == pytest.approx(plain.mean)
    assert grouped.high - grouped.low > plain.high - plain.low
    alone = grouped_auroc_interval(scores, positive, np.arange(1000))
    assert alone.high - alone.low == pytest.approx(plain.high - plain.low, rel=0.2)


def test_a_grouped_auroc_needs_both_labels():
    with pytest.raises(DataError, match="both labels"):
        grouped_auroc_interval([1.0, 2.0], [True, True], [0, 1])


@pytest.mark.parametrize("level", [0.0, 1.0, 2.0, float("nan")])
@pytest.mark.parametrize("interval", [share_interval, bootstrap_interval])
def test_a_level_is_a_share(interval, level) -> None:
    with pytest.raises(DataError, match="expected a number between 0 and 1"):
        interval([1], level=level)
