"""A random direction: the null that every steering result has to beat.

Even random directions change what models refuse (The Rogue Scalpel, 2025), so an effect means
something only beyond what noise of the same size, or better of the same KL, does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch

from saesteer.data.contrast import Contrast
from saesteer.methods.base import (
    Family,
    Method,
    difference_in_means,
    of_norm,
    site_or_default,
)
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Plan, add, generated


@final
@dataclass(frozen=True)
class RandomDirection(Method):
    """An isotropic Gaussian direction, the same on every machine for one seed.

    `norm` is the vector's Euclidean norm in the model's scale; None takes the CAA vector's.
    """

    source: ClassVar[str] = "control"
    needs: ClassVar[str] = "nothing; a contrast for its norm"
    family: ClassVar[Family] = "control"

    seed: int = 0
    norm: float | None = None

    @property
    def name(self) -> str:
        """The control's name, without its seed."""
        return "random direction"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """The direction as a plan, added where CAA adds its vector; see `Method.fit`."""
        model = as_model(model)
        place = site_or_default(model, site)
        reference = difference_in_means(model, contrast, place) if self.norm is None else None
        norm = float(reference.norm()) if reference is not None else float(self.norm or 0.0)
        width, generator = model.layout.width(place), torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(width, generator=generator)
        return Plan(add(place, of_norm(drawn, norm)), where=generated(), name=self.name)
