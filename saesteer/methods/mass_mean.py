"""Mass-mean direction: the difference in means, read at each text's end, maybe whitened.

`h += strength · v` at every position that chooses a generated token. θ = mean h⁺ − mean h⁻
`[width]`; v lies along θ, or with `whiten` along Σ⁻¹θ, Σ the covariance within the groups. It is
`dose` times the site's typical norm long, or for None θ itself, and whitened as long as it takes to
carry the negatives' mean to the positives' along it.

Source: Marks and Tegmark 2023, The Geometry of Truth (2310.06824). They intervene with θ itself and
whiten only to classify; the option is here because a probe's direction is Σ⁻¹θ. They read the
statement's last token. Their Σ is the plain covariance; with fewer texts than dimensions it has no
inverse, so here it is shrunk by Ledoit and Wolf's rule. Read over the mean of a text's tokens
instead of its last, and not whitened, this is CAA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch

from saesteer.axes import Vector
from saesteer.data.contrast import Contrast
from saesteer.features.activations import Pool
from saesteer.methods.base import DOSE, Family, Method
from saesteer.methods.directions import Sides, steer_along
from saesteer.models import Model
from saesteer.models.sites import Site
from saesteer.steer import Plan


@final
@dataclass(frozen=True)
class MassMean(Method):
    """The difference in means; `whiten` tilts it by the covariance, `read` is what it reads."""

    source: ClassVar[str] = "Marks and Tegmark 2023, 2310.06824"
    needs: ClassVar[str] = "two groups of texts"
    family: ClassVar[Family] = "dense"

    whiten: bool = False
    read: Pool = "last"
    dose: float | None = DOSE

    @property
    def name(self) -> str:
        """The paper's name."""
        return "mass mean, whitened" if self.whiten else "mass mean"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """The direction as a plan; see `Method.fit`."""
        direction = _whitened if self.whiten else _difference
        return steer_along(self, direction, model, contrast, site, self.read, self.dose)


def _difference(sides: Sides) -> Vector:
    return sides.difference


def _whitened(sides: Sides) -> Vector:
    """Σ⁻¹θ with Σ shrunk towards a multiple of the identity (Ledoit and Wolf 2004)."""
    from sklearn.covariance import LedoitWolf

    centred = torch.cat([side - side.mean(0) for side in sides]).double()
    shrunk = LedoitWolf(assume_centered=True).fit(centred.numpy()).covariance_
    return torch.linalg.solve(torch.from_numpy(shrunk), sides.difference.double()).float()
