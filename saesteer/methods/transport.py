"""Optimal transport of one coordinate at a time, and where the methods of affine maps act."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Rows, Vector
from saesteer.errors import ContrastError
from saesteer.methods.base import ROUNDING
from saesteer.methods.directions import Sides
from saesteer.models import Model
from saesteer.models.sites import Site


def sites_of(model: Model, kinds: Sequence[str]) -> list[Site]:
    """Every layer's sites of these kinds, in the order in which a pass reaches them.

    Raises:
        SiteError: the model has none of a kind.
    """
    sites = [Site(layer, kind) for layer in range(model.n_layers) for kind in kinds]
    return sorted((model.check_site(site) for site in sites), key=lambda site: site.order)


def mean_variance(rows: Rows, who: str) -> float:
    """Of the coordinates, a mean.

    Raises:
        ContrastError: all rows are alike.
    """
    variance = float(rows.var(0, correction=0).mean())
    if not variance > 0:
        raise ContrastError(f"{who}: its positives are all alike; give other texts too.")
    return variance


def transport(sides: Sides) -> tuple[Vector, Vector]:
    """ω and β `[width]` from the negatives to the positives."""
    n_levels = max(map(len, sides))
    source, target = (quantiles(side, n_levels) for side in (sides.negative, sides.positive))
    start, end = source.mean(0), target.mean(0)
    spread = (source - start).square().sum(0)
    slope = ((source - start) * (target - end)).sum(0) / spread
    varies = spread > (ROUNDING * start).square() * n_levels
    slope = torch.where(varies & slope.isfinite(), slope, 1.0)
    return slope.float(), (end - slope * start).float()


def quantiles(rows: Rows, n_levels: int) -> torch.Tensor:
    """Each column's quantiles at evenly spaced levels: the sorted rows, if there are as many."""
    ordered = rows.double().sort(0).values
    at = torch.linspace(0, len(ordered) - 1, n_levels, dtype=torch.float64)
    low = at.floor().long().clamp(max=len(ordered) - 1)
    high = (low + 1).clamp(max=len(ordered) - 1)
    return torch.lerp(ordered[low], ordered[high], (at - low)[:, None])


def wasserstein(
    rows: Float[Tensor, "n width"], target: Float[Tensor, "m width"]
) -> Float[Tensor, ""]:
    """Mean over coordinates of the squared 1-D Wasserstein-2 distance between two samples."""
    wanted = quantiles(target, len(rows)).to(rows.device, torch.float32)
    return (rows.sort(0).values - wanted).square().mean()
