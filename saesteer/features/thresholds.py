"""Where a score counts as a concept: the cut by a stated aim, and how sure a score makes one."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saesteer.errors import ConfigError, ContrastError

Aim = Literal["balanced_accuracy", "f1", "false_positives"]


def choose_threshold(
    scores: Float[Tensor, " rows"],
    positive: Bool[Tensor, " rows"],
    aim: Aim = "balanced_accuracy",
    budget: float = 0.01,
) -> float:
    """The cut `score > t` that serves the aim best; midway between two scores.

    Args:
        aim: most balanced accuracy, most F1, or most recall with a share of at most `budget` of the
            negatives above the cut.

    Raises:
        ConfigError: an unknown aim, or a budget outside 0 to 1.
        ContrastError: rows of one label only.
    """
    if aim not in get_args(Aim):
        raise ConfigError(f"threshold {aim!r} is none of {', '.join(get_args(Aim))} or a number.")
    if not 0 <= budget <= 1:
        raise ConfigError(f"a false-positive budget of {budget:g}; expected a share from 0 to 1.")
    if bool(positive.all()) or not bool(positive.any()):
        raise ContrastError("a threshold needs scores of both labels; got one label only.")
    values = torch.unique(scores.double())
    edge = torch.tensor([1.0], dtype=torch.float64)
    cuts = torch.cat([values[:1] - edge, (values[1:] + values[:-1]) / 2, values[-1:] + edge])
    above = share_above(scores[positive], cuts), share_above(scores[~positive], cuts)
    best = _merit(*above, int(positive.sum()), int((~positive).sum()), aim, budget)
    return float(cuts[best == best.max()].median())


def share_above(
    scores: Float[Tensor, " n"], cuts: Float[Tensor, " cuts"]
) -> Float[Tensor, " cuts"]:
    """The share of `scores` above each cut, in double precision."""
    ordered = scores.double().sort().values
    return 1 - torch.searchsorted(ordered, cuts, right=True) / len(ordered)


def _merit(
    recall: Tensor, fall_out: Tensor, n_pos: int, n_neg: int, aim: Aim, budget: float
) -> Tensor:
    match aim:
        case "balanced_accuracy":
            return (recall + 1 - fall_out) / 2
        case "f1":
            hits = recall * n_pos
            return 2 * hits / (hits + fall_out * n_neg + n_pos).clamp_min(1e-12)
        case "false_positives":
            return torch.where(fall_out <= budget, recall - fall_out, -1.0)


def calibrate(
    scores: Float[Tensor, " rows"], positive: Bool[Tensor, " rows"]
) -> tuple[float, float]:
    """Slope and offset so that `sigmoid(slope * score + offset)` is a share of positives.

    Platt's logistic fit with his smoothed targets, so that separable scores stay finite.
    Source: Platt 1999, Probabilistic outputs for support vector machines.
    """
    from scipy.optimize import minimize

    x = scores.double().numpy()
    spread = max(float(x.std()), 1e-9)
    z = (x - x.mean()) / spread
    y = positive.numpy()
    n_pos, n_neg = int(y.sum()), int((~y).sum())
    target = np.where(y, (n_pos + 1) / (n_pos + 2), 1 / (n_neg + 2))

    def loss(p: np.ndarray) -> float:
        logit = p[0] * z + p[1]
        return float(np.mean(np.logaddexp(0, logit) - target * logit))

    slope, offset = minimize(loss, np.array([1.0, 0.0]), method="BFGS").x
    return float(slope / spread), float(offset - slope * x.mean() / spread)
