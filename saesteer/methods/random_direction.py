"""A random direction: the null that every steering result has to beat.

Even random directions change what models refuse (The Rogue Scalpel, 2025), so an effect means
something only beyond what noise of the same size, or better of the same KL, does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch

from saesteer.axes import Vector
from saesteer.data.contrast import Contrast
from saesteer.methods.base import DOSE, Family, Method, dosed, of_norm, site_or_default
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Plan, add, generated


@final
@dataclass(frozen=True)
class RandomDirection(Method):
    """An isotropic Gaussian direction, the same on every machine for one seed.

    `norm` is the vector's Euclidean norm in the model's scale; None takes what `dosed` gives CAA's.
    """

    source: ClassVar[str] = "control"
    needs: ClassVar[str] = "nothing"
    family: ClassVar[Family] = "control"

    seed: int = 0
    norm: float | None = None

    @property
    def name(self) -> str:
        """The control's name, without its seed."""
        return "random direction"

    def fit(
        self,
        model: Model | Any,
        contrast: Contrast,  # noqa: ARG002
        site: Site | str | None = None,
    ) -> Plan:
        """The direction as a plan, added where CAA adds its vector; see `Method.fit`."""
        model = as_model(model)
        place = site_or_default(model, site)
        drawn = torch.randn(model.d_model, generator=torch.Generator().manual_seed(self.seed))
        vector = sized(model, place, drawn, self.norm)
        return Plan(add(place, vector), where=generated(), name=self.name)


def sized(model: Model, site: Site, vector: Vector, norm: float | None) -> Vector:
    """The same direction at a norm, or for None at the dose of methods without one of their own."""
    return dosed(model, site, vector, DOSE) if norm is None else of_norm(vector, norm)
