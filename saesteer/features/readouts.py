"""What a concept is read from: features, a tree over features, a direction, or a linear probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Vector
from saesteer.errors import ConfigError
from saesteer.features.trees import TreeReadout
from saesteer.models import Model, Site, as_model, record


@final
@dataclass(frozen=True)
class FeatureReadout:
    """A weighted sum of SAE features at the SAE's own site; one feature of weight 1 is the usual.

    Raises:
        ConfigError: no feature, one named twice, or as many weights as features are not given.
    """

    features: tuple[int, ...]
    weights: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Check that features and weights pair up."""
        if not self.features or len(self.features) != len(self.weights):
            raise ConfigError(
                f"a readout of {len(self.features)} features with {len(self.weights)} weights; "
                "expected one weight for each of at least one feature."
            )
        if len(set(self.features)) < len(self.features):
            raise ConfigError(f"a readout names a feature twice: {list(self.features)}.")

    def __str__(self) -> str:
        """`feature 12`, or `0.7·feature 12 + 0.3·feature 88`."""
        if self.weights == (1.0,):
            return f"feature {self.features[0]}"
        parts = zip(self.weights, self.features, strict=True)
        return " + ".join(f"{weight:g}·feature {feature}" for weight, feature in parts)


@final
@dataclass(frozen=True, eq=False)
class CosineReadout:
    """Cosine between the activation and a dense direction, -1 to 1.

    Raises:
        ConfigError: the direction is zero or not finite.
    """

    site: Site
    vector: Vector

    def __post_init__(self) -> None:
        """Check that the vector has a direction."""
        norm = self.vector.float().norm()
        if not (norm > 0 and norm.isfinite()):
            raise ConfigError(
                f"a direction at {self.site} has norm {norm:g}; expected a finite one."
            )

    def __str__(self) -> str:
        """`cosine at resid_post.9`."""
        return f"cosine at {self.site}"


@final
@dataclass(frozen=True, eq=False)
class ProbeReadout:
    """A linear probe's logit, `h @ weight + bias`."""

    site: Site
    weight: Vector
    bias: float = 0.0

    def __str__(self) -> str:
        """`probe at resid_post.9`."""
        return f"probe at {self.site}"


SparseReadout = FeatureReadout | TreeReadout
Readout = SparseReadout | CosineReadout | ProbeReadout


def prompt_projections(
    model: Model | Any, readout: ProbeReadout, prompts: Sequence[Any]
) -> Float[Tensor, " prompts"]:
    """What a probe says of each prompt (texts or chats) at its last token."""
    model = as_model(model)
    resid = record(model, model.tokenize(prompts), [readout.site])[readout.site]
    return resid[:, -1].float().cpu() @ readout.weight + readout.bias
