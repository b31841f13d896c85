"""The one seam through which every published method enters: `fit(model, contrast, site) -> Plan`.

A method is a frozen value: its fields are its settings, and whatever it needs beyond one contrast.
Fitting reads the train split (and, where a method chooses among candidates, the validation split),
never the test split, and leaves the model as it was.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from saesteer.axes import Vector
from saesteer.data.contrast import Contrast, Example
from saesteer.errors import ContrastError
from saesteer.features.activations import read_activations
from saesteer.models.model import Model
from saesteer.models.sites import Site
from saesteer.steer import Plan

Family = Literal["feature", "dense", "prompt", "rule", "plan", "control"]
"""What a method works with; the report's verdict and colours go by it."""

ROUNDING = 1e-5
"""Share of a norm below which two fp32 activations are the same: batches of other shapes round
differently."""


@dataclass(frozen=True)
class Method(ABC):
    """One way to steer, ready to be fitted to a contrast."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What tables and plots call it; the paper's name where there is one."""

    @property
    @abstractmethod
    def family(self) -> Family:
        """What it works with."""

    @abstractmethod
    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """A plan that steers towards the contrast's positives.

        Args:
            model: a `Model`, or anything that `as_model` takes.
            site: where to act; a default of the method's own for None.

        Raises:
            SiteError: the model has no such site.
            ContrastError: the contrast has no usable train split.
        """


def default_site(model: Model) -> Site:
    """The residual stream after a third of the blocks: layer 9 of 30.

    It is where the SAE of the embedded model lies, so dense methods and features act on one place;
    for another model it is a start, not a finding: try others.
    """
    return Site(max(model.n_layers // 3 - 1, 0), "resid_post")


def site_or_default(model: Model, site: Site | str | None) -> Site:
    """`site`, checked against the model, or the default.

    Raises:
        SiteError: the model has no such site.
    """
    return model.check_site(default_site(model) if site is None else site)


def difference_in_means(model: Model, contrast: Contrast, site: Site) -> Vector:
    """Mean activation of the train positives less that of the negatives, in the model's scale.

    Each example counts once, as the mean over its own text's tokens, outliers left out.

    Raises:
        ContrastError: the labels are the same at this site, so there is no direction.
    """
    train = contrast.split("train")
    positive, negative = (_mean(model, side, site) for side in (train.positives, train.negatives))
    vector = positive - negative
    if not float(vector.norm()) > ROUNDING * float(positive.norm()):
        raise ContrastError(
            f"{contrast.name}: positives and negatives have the same mean at {site}, so there is "
            "no direction between them; check that their texts differ."
        )
    return vector


def of_norm(vector: Vector, norm: float) -> Vector:
    """The same direction at another Euclidean norm."""
    return functional.normalize(vector.float(), dim=0) * norm


def _mean(model: Model, examples: tuple[Example, ...], site: Site) -> Tensor:
    rows = read_activations(model, examples, site, drop_outliers=True)
    return torch.stack([row.mean(0) for row in rows if len(row)]).mean(0)
