"""Interventions that put an affine map of the activation in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Resid
from saesteer.errors import DimensionError
from saesteer.models.sites import Site
from saesteer.steer.intervention import Intervention, as_vector, finite


@final
@dataclass(frozen=True, eq=False)
class Affine(Intervention):
    """W h + b in the place of h."""

    weight: Float[Tensor, "width width"]
    bias: Float[Tensor, " width"]

    @property
    def width(self) -> int:
        """Size of the bias."""
        return self.bias.shape[0]

    def describe(self) -> str:
        """`affine map`."""
        return "affine map"

    def delta(self, resid: Resid) -> Resid:
        """W h + b - h."""
        resid = resid.float()
        return resid @ self.weight.T + self.bias - resid


@final
@dataclass(frozen=True, eq=False)
class AffineEach(Intervention):
    """ω ⊙ h + β in the place of h: each coordinate by itself."""

    weight: Float[Tensor, " width"]
    bias: Float[Tensor, " width"]

    @property
    def width(self) -> int:
        """Size of the bias."""
        return self.bias.shape[0]

    def describe(self) -> str:
        """`affine map of 64 coordinates`, those that it leaves alone not counted."""
        n_moved = int(((self.weight != 1) | (self.bias != 0)).sum())
        return f"affine map of {n_moved} coordinate{'s'[: n_moved != 1]}"

    def delta(self, resid: Resid) -> Resid:
        """(ω - 1) ⊙ h + β."""
        return (self.weight - 1.0) * resid.float() + self.bias


def affine(site: Site | str, weight: Tensor, bias: Tensor) -> Affine | AffineEach:
    """Put `weight @ h + bias` in the place of h, or `weight * h + bias` for a weight `[width]`.

    Strength s gives (1 - s) h + s (W h + b), between no edit and the map.

    Raises:
        DimensionError: weight `[width, width]` or `[width]` and bias `[width]` don't fit together.
        PlanError: they are not finite.
    """
    bias = as_vector(bias, "affine")
    if weight.shape == bias.shape:
        return AffineEach(Site.parse(site), finite(weight, "affine"), bias)
    if weight.shape != (len(bias), len(bias)):
        raise DimensionError(
            f"affine: weight {list(weight.shape)} and bias [{len(bias)}] don't fit together; "
            "expected [width, width] or [width], and [width]."
        )
    return Affine(Site.parse(site), finite(weight, "affine"), bias)
