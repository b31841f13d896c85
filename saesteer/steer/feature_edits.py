"""Edits of SAE features that move only what they name and keep the SAE's reconstruction error.

The decoder is linear, so `h + (z* - z) W_dec` needs the edited features' columns and rows alone
(Templeton et al. 2024, Scaling Monosemanticity). A true TopK SAE has no exact slice: whether one
latent lives depends on all the others, so there the whole encoder runs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Resid
from saesteer.errors import DimensionError, PlanError
from saesteer.saes import Crosscoder, Transcoder, as_sae
from saesteer.saes.checks import Features
from saesteer.saes.sae import SAE, FeatureSlice
from saesteer.steer.amounts import Unit, Values, amounts
from saesteer.steer.intervention import Intervention, check_typical, is_outlier
from saesteer.steer.sae_stamp import SaeStamp
from saesteer.steer.topk_reader import TopKReader

Readings = Float[Tensor, "batch pos k"]


@dataclass(frozen=True, eq=False)
class FeatureEdit(Intervention):
    """A change of some features' activations z, which are 0 where a feature is off."""

    reader: FeatureSlice | TopKReader
    stamp: SaeStamp

    def __post_init__(self) -> None:
        """Check that every feature has its number.

        Raises:
            PlanError: no features, or one of them twice.
            DimensionError: another number of numbers than of features.
        """
        check_once(self.reader.features)
        k = len(self.reader.features)
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Tensor) and value.shape != (k,):
                raise DimensionError(
                    f"{entry.name} has shape {list(value.shape)}, expected [{k}], one a feature."
                )

    @property
    def width(self) -> int:
        """The SAE's d_model."""
        return self.reader.d_model

    @abstractmethod
    def change(self, z: Readings) -> Readings:
        """z* - z."""

    def delta(self, resid: Resid) -> Resid:
        """(z* - z) W_dec over the edited features."""
        return self.reader.delta(self.change(self.reader.read(resid.float())))

    def span(self) -> Float[Tensor, "k width"]:
        """The features' decoder rows."""
        return self.reader.w_dec

    def _named(self) -> str:
        features = self.reader.features
        return f"feature{'s'[: len(features) != 1]} {', '.join(map(str, features))}"


@final
@dataclass(frozen=True, eq=False)
class Clamp(FeatureEdit):
    """Holds features at `value`, on or off; 0 is `ablate`."""

    value: Float[Tensor, " k"]

    def describe(self) -> str:
        """`clamp feature 55 to 6`."""
        values = ", ".join(f"{v:g}" for v in dict.fromkeys(self.value.tolist()))
        return f"clamp {self._named()} to {values}"

    def change(self, z: Readings) -> Readings:
        """value - z."""
        return self.value - z


@final
@dataclass(frozen=True, eq=False)
class Scale(FeatureEdit):
    """Multiplies features by `factor` where they are on."""

    factor: Float[Tensor, " k"]

    def describe(self) -> str:
        """`scale feature 55 by 2`."""
        factors = ", ".join(f"{v:g}" for v in dict.fromkeys(self.factor.tolist()))
        return f"scale {self._named()} by {factors}"

    def change(self, z: Readings) -> Readings:
        """(factor - 1) z."""
        return (self.factor - 1.0) * z


@final
@dataclass(frozen=True, eq=False)
class Ablate(FeatureEdit):
    """Sets features to 0 where they are on."""

    def describe(self) -> str:
        """`ablate feature 55`."""
        return f"ablate {self._named()}"

    def change(self, z: Readings) -> Readings:
        """-z."""
        return -z


@final
@dataclass(frozen=True, eq=False)
class FeatureAdd(FeatureEdit):
    """Adds `amount` to features whether they are on or not: a fixed vector along decoder rows."""

    amount: Float[Tensor, " k"]

    def describe(self) -> str:
        """`add 4 to feature 55`."""
        amounts = ", ".join(f"{v:g}" for v in dict.fromkeys(self.amount.tolist()))
        return f"add {amounts} to {self._named()}"

    def change(self, z: Readings) -> Readings:
        """amount, everywhere."""
        return self.amount.expand_as(z)

    def constant(self) -> Float[Tensor, " width"]:
        """amount W_dec; nothing needs to be read."""
        return self.reader.delta(self.amount)

    def delta(self, resid: Resid) -> Resid:
        """The same vector, at every position."""
        return self.constant().expand(resid.shape)


@final
@dataclass(frozen=True, eq=False)
class FeatureShift(FeatureEdit):
    """Adds `amount` to features where they are on; one that is shifted below 0 is off."""

    amount: Float[Tensor, " k"]

    def describe(self) -> str:
        """`shift feature 55 by 4`."""
        shifts = ", ".join(f"{v:.3g}" for v in dict.fromkeys(self.amount.tolist()))
        return f"shift {self._named()} by {shifts}"

    def change(self, z: Readings) -> Readings:
        """max(amount, -z) where z > 0, else nothing."""
        return torch.where(z > 0, torch.maximum(self.amount, -z), 0.0)


@final
@dataclass(frozen=True, eq=False)
class Replace(Intervention):
    """The SAE's reconstruction in the place of h, its error dropped; outlier tokens pass through.

    Outliers are tokens of more than 4 times `typical_norm`.
    """

    sae: SAE
    stamp: SaeStamp
    typical_norm: float | None = None

    def __post_init__(self) -> None:
        """Check the norm; see `check_typical`."""
        check_typical(self.typical_norm, "replace")

    @property
    def width(self) -> int:
        """The SAE's d_model."""
        return self.sae.d_model

    def describe(self) -> str:
        """`replace by the reconstruction of SAE x`."""
        return f"replace by the reconstruction of SAE {self.stamp.name}"

    def delta(self, resid: Resid) -> Resid:
        """Reconstruction minus h."""
        resid = resid.float()
        outlier = is_outlier(resid.norm(dim=-1, keepdim=True), self.typical_norm, "replace")
        return torch.where(outlier, 0.0, self.sae(resid) - resid)


def clamp(sae: SAE, features: Features, value: Values, *, unit: Unit = 1.0) -> Clamp:
    """Hold features at `value` (one for all, or one each), in latent units or in `unit`s.

    Args:
        unit: what 1 means in latent units, such as the features' maximum activations.

    Raises:
        SaeError: `sae` is no SAE.
        FeatureError: a feature lies outside the SAE.
        PlanError: no features, or another number of values.
    """
    reader = _reader(sae, features)
    given = amounts(value, unit, reader.features, sae.d_sae, "clamp")
    return Clamp(sae.site, reader, SaeStamp.of(sae), given.to(sae.device))


def scale(sae: SAE, features: Features, factor: Values) -> Scale:
    """Multiply features by `factor` where they are on.

    Raises:
        SaeError, FeatureError, PlanError: as for `clamp`.
    """
    reader = _reader(sae, features)
    given = amounts(factor, 1.0, reader.features, sae.d_sae, "scale")
    return Scale(sae.site, reader, SaeStamp.of(sae), given.to(sae.device))


def ablate(sae: SAE, features: Features) -> Ablate:
    """Set features to 0 where they are on.

    Raises:
        SaeError, FeatureError, PlanError: as for `clamp`.
    """
    reader = _reader(sae, features)
    return Ablate(sae.site, reader, SaeStamp.of(sae))


def feature_add(sae: SAE, features: Features, amount: Values, *, unit: Unit = 1.0) -> FeatureAdd:
    """Add `amount`, in latent units or in `unit`s, to features whether they are on or not.

    Raises:
        SaeError, FeatureError, PlanError: as for `clamp`.
    """
    reader = _reader(sae, features)
    given = amounts(amount, unit, reader.features, sae.d_sae, "feature_add")
    return FeatureAdd(sae.site, reader, SaeStamp.of(sae), given.to(sae.device))


def feature_shift(
    sae: SAE, features: Features, amount: Values, *, unit: Unit = 1.0
) -> FeatureShift:
    """Add `amount`, in latent units or in `unit`s, to features where they are on.

    Raises:
        SaeError, FeatureError, PlanError: as for `clamp`.
    """
    reader = _reader(sae, features)
    given = amounts(amount, unit, reader.features, sae.d_sae, "feature_shift")
    return FeatureShift(sae.site, reader, SaeStamp.of(sae), given.to(sae.device))


def replace_by(sae: SAE, typical_norm: float | None = None) -> Replace:
    """Put the SAE's reconstruction in the place of the activation; exported as `replace`.

    Args:
        typical_norm: the site's median ‖h‖; measured once on a built-in text when left out.

    Raises:
        SaeError: `sae` is no SAE.
    """
    sae = as_sae(sae)
    return Replace(sae.site, sae.to(dtype=torch.float32), SaeStamp.of(sae), typical_norm)


def check_once(features: Sequence[int]) -> None:
    """Features that are edited together.

    Raises:
        PlanError: none, or one of them twice.
    """
    if not features or len(set(features)) < len(features):
        raise PlanError(f"features {list(features)}: give one or more, each of them once.")


def _reader(sae: object, features: Features) -> FeatureSlice | TopKReader:
    if isinstance(sae, Transcoder | Crosscoder):
        raise PlanError(
            f"{sae.name} is a {type(sae).__name__.lower()}: its features are read at one place and "
            "written at another, so they can't be set; add what one writes, saesteer.add(SITE, "
            "coder.direction(...))."
        )
    sae = as_sae(sae)
    chosen = sae.check_features(features)
    check_once(chosen)
    if sae.activation == "topk":
        return TopKReader(sae.to(dtype=torch.float32), chosen)
    return sae.slice(chosen).to(dtype=torch.float32)
