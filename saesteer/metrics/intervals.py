"""Bootstrap intervals over prompts, not tokens, since the tokens of one prompt go together.

Percentile intervals from a seeded generator, so that a report can be made again to the last digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from saesteer.errors import DataError

Numbers = Sequence[float | int] | np.ndarray
"""One number per prompt."""


@dataclass(frozen=True)
class Interval:
    """A mean with its interval."""

    mean: float
    low: float
    high: float

    def excludes(self, value: float | int = 0) -> bool:
        """Whether `value` lies outside the interval."""
        return not self.low <= value <= self.high


def bootstrap_interval(
    values: Numbers, seed: int = 0, n: int = 2000, level: float = 0.95
) -> Interval:
    """Mean of `values` with its percentile bootstrap interval.

    Args:
        values: one number per prompt.
        seed: of the resampling.
        n: resamples.
        level: share of resampled means inside the interval.

    Raises:
        DataError: no values, or one that is not finite.
    """
    return _bootstrap(values, None, seed, n, level)


def paired_difference(
    a: Numbers,
    b: Numbers,
    seed: int = 0,
    n: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Interval of the mean of a − b over the same prompts in the same order.

    Raises:
        DataError: different numbers of values, none, or one that is not finite.
    """
    if len(a) != len(b):
        raise DataError(f"a paired difference needs pairs; got {len(a)} and {len(b)} values.")
    return bootstrap_interval([x - y for x, y in zip(a, b, strict=True)], seed, n, level)


def difference_to_sample(
    a: Numbers, others: Sequence[Numbers], seed: int = 0, n: int = 2000, level: float = 0.95
) -> Interval:
    """Interval of the mean of a − b, where b is one of many that were not all seen.

    Random directions differ from one another, and a few of them are a sample as prompts are: both
    are drawn again. k of them spread (k − 1)/k as much around their own mean as around that of all,
    which is made good; of one alone nothing is known, and it counts as the only one there is.

    Args:
        a: one number per prompt.
        others: the same of each one seen, over the same prompts in the same order.

    Raises:
        DataError: none to compare with; different numbers of values, none, or one not finite.
    """
    if not others or any(len(b) != len(a) for b in others):
        raise DataError(
            f"a difference to a sample needs pairs; got {len(a)} and {[len(b) for b in others]} "
            "values."
        )
    seen = np.asarray(others, dtype=np.float64)
    usual, k = seen.mean(axis=0), len(seen)
    apart = (seen - usual) * np.sqrt(k / (k - 1)) if k > 1 else None
    return _bootstrap(np.asarray(a, dtype=np.float64) - usual, apart, seed, n, level)


def auroc_interval(
    scores: Numbers, positive: Sequence[bool | int] | np.ndarray, seed: int = 0, n: int = 2000
) -> Interval:
    """AUROC with its 95 % percentile bootstrap interval, positives and negatives drawn apart.

    A tied pair counts one half, as the trapezoid under the ROC curve does.

    Args:
        scores: one number per text; more is more of the concept.
        positive: its labels.

    Raises:
        DataError: no scores of one label.
    """
    values, labels = _labelled(scores, positive)
    distinct, levels = np.unique(values, return_inverse=True)
    rng = np.random.default_rng(seed)
    high, low = (_resampled(levels[side], len(distinct), rng, n) for side in (labels, ~labels))
    areas = (high * (low.cumsum(1) - low / 2)).sum(1) / (labels.sum() * (~labels).sum())
    bounds = np.quantile(areas[1:], [0.025, 0.975])
    return Interval(float(areas[0]), float(bounds[0]), float(bounds[1]))


def grouped_auroc_interval(
    scores: Numbers,
    positive: Sequence[bool | int] | np.ndarray,
    groups: Sequence[int] | np.ndarray,
    seed: int = 0,
    n: int = 500,
) -> Interval:
    """AUROC of scores that come in groups, such as the tokens of texts; whole groups are drawn.

    Resamples without scores of both labels are left out.

    Raises:
        DataError: no scores of one label.
    """
    values, labels = _labelled(scores, positive)
    _, levels = np.unique(values, return_inverse=True)
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    size = int(group.max()) + 1
    draws = np.random.default_rng(seed).multinomial(size, [1 / size] * size, size=n)
    areas = [_weighted_area(levels, labels, np.ones(len(levels)))]
    areas += [_weighted_area(levels, labels, draw[group].astype(float)) for draw in draws]
    low, high = np.nanquantile(areas[1:], [0.025, 0.975])
    return Interval(float(areas[0]), float(low), float(high))


def _bootstrap(
    values: Numbers, apart: np.ndarray | None, seed: int, n: int, level: float
) -> Interval:
    """Interval of the mean of `values` over prompts, less the mean of as many drawn rows of `apart`
    `[members, prompts]` as there are."""
    _check_level(level)
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not sample.size or not np.isfinite(sample).all():
        raise DataError(f"an interval needs finite values, one per prompt; got {sample.size}.")
    rng = np.random.default_rng(seed)
    prompts = rng.integers(0, sample.size, size=(n, sample.size))
    means = sample[prompts].mean(axis=1)
    if apart is not None:
        members = rng.integers(0, len(apart), size=(n, len(apart)))
        means -= apart[members[:, :, None], prompts[:, None, :]].mean(axis=(1, 2))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sample.mean()), float(low), float(high))


def _check_level(level: object) -> None:
    if not (isinstance(level, int | float) and 0 < level < 1):
        raise DataError(f"level is {level!r}, expected a number between 0 and 1, such as 0.95.")


def _labelled(
    scores: Numbers, positive: Sequence[bool | int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels as arrays; raises DataError where all labels are alike."""
    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    if labels.all() or not labels.any():
        raise DataError(f"an AUROC needs scores of both labels; got {len(labels)} of one.")
    return values, labels


def _weighted_area(levels: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> float:
    """AUROC with weights, ties counting one half; NaN where one label weighs nothing."""
    n = int(levels.max()) + 1
    high, low = (np.bincount(levels[s], weight[s], n) for s in (labels, ~labels))
    total = high.sum() * low.sum()
    return float((high * (low.cumsum() - low / 2)).sum() / total) if total else float("nan")


def _resampled(levels: np.ndarray, n_levels: int, rng: np.random.Generator, n: int) -> np.ndarray:
    """How often each level occurs in the sample itself (row 0) and in `n` resamples."""
    size = len(levels)
    draws = np.vstack([np.ones(size, dtype=int), rng.multinomial(size, [1 / size] * size, size=n)])
    counts = np.zeros((n + 1, n_levels))
    np.add.at(counts.T, levels, draws.T)
    return counts


def share_interval(hits: Sequence[bool | int], level: float = 0.95) -> Interval:
    """Share of hits with Wilson's score interval, which does not collapse at 0 or 1.

    Raises:
        DataError: no values, or no such level.
    """
    _check_level(level)
    n = len(hits)
    if not n:
        raise DataError("an interval of a share needs at least one value; got none.")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = sum(map(bool, hits)) / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def balanced_interval(
    positive: Sequence[bool | int], negative: Sequence[bool | int], level: float = 0.95
) -> Interval:
    """Balanced accuracy from the hits of either label: the mean of two shares.

    The two Wilson intervals' half widths are added as independent ones are, on each side.

    Raises:
        DataError: no values of one label.
    """
    one, other = share_interval(positive, level), share_interval(negative, level)
    below = ((one.mean - one.low) ** 2 + (other.mean - other.low) ** 2) ** 0.5 / 2
    above = ((one.high - one.mean) ** 2 + (other.high - other.mean) ** 2) ** 0.5 / 2
    mean = (one.mean + other.mean) / 2
    return Interval(mean, mean - below, mean + above)
