"""How well each column of a matrix tells two groups of rows apart, all columns at once.

Latents are mostly zero, so ties are the rule: AUROC uses average ranks, which gives a tied pair
half a point, exactly as the trapezoid under the ROC curve does.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_COLUMNS = 4096
"""Columns ranked at a time: 1,000 rows then take some 100 MB of working memory, whatever d_sae."""


def auroc(
    values: Float[Tensor, "rows columns"], positive: Bool[Tensor, " rows"]
) -> Float[Tensor, " columns"]:
    """Probability that a positive row exceeds a negative one, ties counting one half; fp32.

    Both groups must have rows. 0.5 is chance; below it the negatives are higher.
    Source: Mann and Whitney 1947; Hanley and McNeil 1982.
    """
    n_pos = int(positive.sum())
    n_neg = len(positive) - n_pos
    assert 0 < n_pos < len(positive), "AUROC needs both groups"
    parts = [
        (average_ranks(part)[positive].sum(0) - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)
        for part in values.split(_COLUMNS, dim=1)
    ]
    return torch.cat(parts).float()


def average_ranks(values: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Rank of every value within its column, from 1; equal values share the mean of their ranks."""
    ordered, order = values.sort(dim=0)
    place = torch.arange(len(values), device=values.device).unsqueeze(1).expand_as(ordered)
    edge = torch.ones_like(ordered[:1], dtype=torch.bool)
    changes = ordered[1:] != ordered[:-1]
    first = torch.where(torch.cat([edge, changes]), place, 0).cummax(dim=0).values
    ends = torch.where(torch.cat([changes, edge]), place, len(values))
    last = ends.flip(0).cummin(dim=0).values.flip(0)
    ranks = (first + last).double() / 2 + 1
    return torch.empty_like(ranks).scatter(0, order, ranks)


def cohens_d(
    values: Float[Tensor, "rows columns"], positive: Bool[Tensor, " rows"]
) -> Float[Tensor, " columns"]:
    """Difference of the groups' means over their pooled standard deviation; 0 without spread.

    Source: Cohen 1988, Statistical Power Analysis for the Behavioral Sciences, chapter 2.
    """
    pos, neg = values[positive].double(), values[~positive].double()
    squares = sum(((group - group.mean(0)) ** 2).sum(0) for group in (pos, neg))
    spread = (torch.as_tensor(squares) / max(len(values) - 2, 1)).sqrt()
    difference = pos.mean(0) - neg.mean(0)
    return torch.where(spread > 0, difference / spread, 0.0).float()
