"""Contrastive Activation Addition: one vector, the difference in means, after the prompt.

Rimsky et al. 2023 (2312.06681) read A/B pairs at the answer letter. Contrasts here are free texts,
so each is read as the mean over its own tokens: the paper's formula with another readout. Like the
paper, strength multiplies the raw difference, of whichever size the model gives it, often a few
hundredths of ‖h‖; `dose=0.25` makes it that share of the site's typical norm, as other directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

from saesteer.data.contrast import Contrast
from saesteer.methods.base import (
    Family,
    Method,
    difference_in_means,
    dosed,
    site_or_default,
)
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Plan, add, generated


@final
@dataclass(frozen=True)
class CAA(Method):
    """`h += strength · (mean h⁺ − mean h⁻)` at every position that chooses a generated token."""

    source: ClassVar[str] = "Rimsky et al. 2023, 2312.06681"
    needs: ClassVar[str] = "two groups of texts"
    family: ClassVar[Family] = "dense"

    dose: float | None = None

    @property
    def name(self) -> str:
        """The paper's name."""
        return "CAA"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """The difference in means as a plan; see `Method.fit`."""
        model = as_model(model)
        place = site_or_default(model, site)
        vector = dosed(model, place, difference_in_means(model, contrast, place), self.dose)
        return Plan(add(place, vector), where=generated(), name=self.name)
