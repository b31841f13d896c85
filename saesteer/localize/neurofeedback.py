"""Neurofeedback readout: a text's activation along a direction, as a score and as a 0/1 label.

A direction ŵ `[width]` (logistic regression on the train texts' mean activations, or their first
principal component) gives each text the projection ŵ·h̄; standardised by the train texts' mean and
deviation it is the score, and above the train median the label 1: what a model would be shown as
feedback about itself. Sites are ranked by how well the held-out texts' scores tell the true labels.

Source: Ji-An et al. 2025 (2505.13763), language models monitoring and controlling their own
activations. Only the readout is here, which picks axes and makes labels; the in-context experiment
is a prompt made from them. Means over a text's tokens are the paper's; PCA's sign is set so that
train positives score higher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from saesteer.axes import Rows, Vector
from saesteer.data.contrast import Contrast
from saesteer.features.separation import auroc
from saesteer.localize.patching import sites_of
from saesteer.localize.ranking import Localizer, Place, Ranking
from saesteer.methods.directions import (
    Sides,
    logistic_direction,
    principal_component,
    read_sides,
)
from saesteer.models import Model, Site, as_model


@final
@dataclass(frozen=True)
class Feedback:
    """A readout along one direction; `mean`, `deviation` and `median` are the train texts'."""

    site: Site
    direction: Vector
    mean: float
    deviation: float
    median: float

    def scores(self, rows: Rows) -> Float[Tensor, " n"]:
        """Standardised projections of mean activations `[n, width]`."""
        return (rows.float() @ self.direction - self.mean) / self.deviation

    def labels(self, rows: Rows) -> Bool[Tensor, " n"]:
        """Whether each lies above the train median."""
        return rows.float() @ self.direction > self.median


@final
@dataclass(frozen=True)
class Neurofeedback(Localizer):
    """Sites by what a readout along one direction tells of held-out texts."""

    source: ClassVar[str] = "Ji-An et al. 2025, 2505.13763"
    needs: ClassVar[str] = "two groups of texts, with a validation split"

    kinds: Sequence[str] = ("resid_post",)
    axis: Literal["logistic", "principal"] = "logistic"

    def rank(self, model: Model | Any, contrast: Contrast) -> Ranking:
        """Sites by AUROC on the validation split; see `Localizer.rank`."""
        model = as_model(model)
        sites = sites_of(model, self.kinds)
        train = read_sides(model, contrast.split("train"), sites, "mean")
        held = read_sides(model, contrast.split("validation"), sites, "mean")
        places: list[Place] = []
        for site in sites:
            scores = self.readout(site, train[site]).scores(held[site].rows)
            area = float(auroc(scores[:, None], held[site].labels > 0.5))
            places.append(Place(site, area))
        return Ranking.of("neurofeedback", "AUROC of the readout, 0.5 is chance", places)

    def readout(self, site: Site, train: Sides) -> Feedback:
        """The direction and scale that train texts at one site give."""
        if self.axis == "logistic":
            vector = logistic_direction(train)[0]
        else:
            vector = principal_component(train.rows - train.rows.mean(0))
            vector = vector * (1.0 if float(vector @ train.difference) >= 0 else -1.0)
        unit = functional.normalize(vector, dim=0)
        along = train.rows @ unit
        tiny = torch.finfo(torch.float32).tiny
        deviation = max(float(along.std()), tiny)
        return Feedback(site, unit, float(along.mean()), deviation, float(along.median()))
