"""A linear probe used backwards: steer along the weights of a logistic regression.

`h += strength · α ŵ` at every position that chooses a generated token, w the probe's weights
`[width]`; α is `dose` times the site's typical norm, or for None ŵ · (mean h⁺ − mean h⁻), which
carries the negatives' mean to the positives' along w. The probe reads one row per text, L2 with
C = 1 on rows brought to RMS 1.

Source: the baseline that every paper on probes has (Alain and Bengio 2016, 1610.01644; Li et al.
2023, 2306.03341, "probe weight direction"); papers differ in regularisation and length, so both
are stated above and are choices of this library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

from saesteer.axes import Vector
from saesteer.data.contrast import Contrast
from saesteer.features.activations import Pool
from saesteer.methods.base import DOSE, Family, Method
from saesteer.methods.directions import Sides, logistic_direction, steer_along
from saesteer.models import Model
from saesteer.models.sites import Site
from saesteer.steer import Plan


@final
@dataclass(frozen=True)
class LinearProbe(Method):
    """The probe's direction; `read` is how a text becomes one row."""

    source: ClassVar[str] = "Alain and Bengio 2016, 1610.01644"
    needs: ClassVar[str] = "two groups of texts"
    family: ClassVar[Family] = "dense"

    read: Pool = "mean"
    dose: float | None = DOSE

    @property
    def name(self) -> str:
        """What papers call it."""
        return "linear probe"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """The direction as a plan; see `Method.fit`."""
        return steer_along(self, _weights, model, contrast, site, self.read, self.dose)


def _weights(sides: Sides) -> Vector:
    return logistic_direction(sides)[0]
