"""Directions between two groups of activations, and the one rule for how long they are.

Papers scale their directions in units of their own. Here every direction that has no length from
its paper is added at one share of the site's typical norm, `DOSE`, so that a strength of 1 means
one thing for all of them and in every model; `dose=None` leaves it as long as it takes to carry one
group's mean to the other's along it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from saesteer.axes import Rows, Vector
from saesteer.data.contrast import Contrast
from saesteer.errors import ContrastError
from saesteer.features.activations import Pool, pooled_activations
from saesteer.features.separation import cohens_d
from saesteer.methods.base import ROUNDING, Method, dosed, site_or_default
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.saes.checks import Features
from saesteer.saes.sae import SAE
from saesteer.steer import Plan, add, generated


class Sides(NamedTuple):
    """Pooled activations of a contrast's two labels, one row per text."""

    positive: Rows
    negative: Rows

    @property
    def difference(self) -> Vector:
        """Mean of the positives less mean of the negatives."""
        return self.positive.mean(0) - self.negative.mean(0)

    @property
    def rows(self) -> Rows:
        """Both, positives first."""
        return torch.cat(self)

    @property
    def labels(self) -> Float[Tensor, " n"]:
        """1 and 0 for `rows`."""
        return torch.cat([torch.ones(len(self.positive)), torch.zeros(len(self.negative))])

    def columns(self, start: int, stop: int) -> Sides:
        """A share of the last axis, such as one head's."""
        return Sides(self.positive[:, start:stop], self.negative[:, start:stop])


def read_sides(
    model: Model,
    contrast: Contrast,
    sites: Sequence[Site],
    pool: Pool,
    n_last: int | None = None,
) -> dict[Site, Sides]:
    """Both labels' texts at some sites, each pooled to a row, read in one pass.

    `pool` and `n_last` are those of `pooled_activations`.

    Raises:
        SiteError, DataError: as `pooled_activations`.
    """
    n_positive = len(contrast.positives)
    examples = [*contrast.positives, *contrast.negatives]
    found = pooled_activations(model, examples, sites, pool, n_last=n_last)
    return {site: Sides(rows[:n_positive], rows[n_positive:]) for site, rows in found.items()}


def spanning(direction: Vector, sides: Sides, who: str) -> Vector:
    """`direction` at the length that carries the negatives' mean to the positives' along it.

    v = ŵ (ŵ · (mean h⁺ − mean h⁻)).

    Raises:
        ContrastError: the means don't differ that way round along it.
    """
    unit = functional.normalize(direction.float(), dim=0)
    length = float(unit @ sides.difference)
    if not length > ROUNDING * float(sides.positive.mean(0).norm()):
        raise ContrastError(
            f"{who}: positives and negatives don't differ along the direction found; "
            "check that their texts differ, or give more of them."
        )
    return unit * length


def steer_along(
    method: Method,
    direction: Callable[[Sides], Vector],
    model: Model | Any,
    contrast: Contrast,
    site: Site | str | None,
    pool: Pool,
    dose: float | None,
) -> Plan:
    """`direction` of the train texts at a dose, or as long as `spanning` makes it for None.

    Raises:
        SiteError, DataError, ContrastError: as `read_sides` and `spanning`.
    """
    model = as_model(model)
    place = site_or_default(model, site)
    sides = read_sides(model, contrast.split("train"), [place], pool)[place]
    vector = spanning(direction(sides), sides, f"{contrast.name} at {place}")
    return Plan(add(place, dosed(model, place, vector, dose)), where=generated(), name=method.name)


def isolated(vector: Vector, others: Sequence[Vector], who: str) -> Vector:
    """`vector` without its projection on the span of `others`.

    Raises:
        ContrastError: nothing is left of it, or there was nothing.
    """
    rest = vector.double()
    if others:
        _, sizes, rows = torch.linalg.svd(torch.stack(list(others)).double(), full_matrices=False)
        basis = rows[sizes > ROUNDING * sizes.max()]  # the others may depend on each other
        rest = rest - basis.T @ (basis @ rest)
    if not float(rest.norm()) > ROUNDING * float(vector.norm()):
        raise ContrastError(f"{who}: no direction is left that the other concepts don't span.")
    return rest.float()


def separation(sides: Sides, vector: Vector) -> float:
    """Cohen's d of the projections on `vector`, positives over negatives."""
    return float(cohens_d((sides.rows @ vector)[:, None], sides.labels > 0.5))


def principal_component(rows: Rows) -> Vector:
    """Unit first right singular vector of `rows`, taken as they are; its sign means nothing."""
    return torch.linalg.svd(rows.double(), full_matrices=False).Vh[0].float()


def unit_sum(sae: SAE, features: Features) -> Tensor:
    """Unit vector `[d_model]` along the sum of the features' unit decoder rows, fp32 on the CPU."""
    rows = sae.w_dec[list(sae.check_features(features))].detach().float().cpu()
    return functional.normalize(functional.normalize(rows, dim=-1).sum(0), dim=0)


def rms_of(rows: Rows) -> float:
    """Root mean square of all values; never 0, so that rows can be divided by it."""
    return float(rows.square().mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny))


def logistic_direction(sides: Sides) -> tuple[Vector, float]:
    """Weight and bias of `logistic_weights` between the sides."""
    weight, bias = logistic_weights(sides.rows, sides.labels)
    return weight[0], float(bias[0])


def logistic_weights(
    rows: Rows, labels: Float[Tensor, " n"] | Int[Tensor, " n"]
) -> tuple[Float[Tensor, "k d_model"], Float[Tensor, " k"]]:
    """Weights and biases of a logistic regression, L2 with C = 1 on rows brought to RMS 1.

    The one scale for all coordinates gives C the same meaning at every site and keeps the
    direction that of the raw activations. Two labels have one row of weights, for the larger one.
    """
    from sklearn.linear_model import LogisticRegression

    rms = rms_of(rows)
    probe = LogisticRegression(C=1.0, max_iter=2000)
    probe.fit((rows / rms).double().numpy(), labels.numpy())
    return torch.from_numpy(probe.coef_).float() / rms, torch.from_numpy(probe.intercept_)
