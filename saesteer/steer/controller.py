"""A small network that reads activations and sets, token by token, how strongly edits act."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saesteer.axes import Resid, TokenFloat
from saesteer.errors import DimensionError
from saesteer.models.sites import Site
from saesteer.steer.kinds import register_kind
from saesteer.steer.schedule import ReadingSchedule


@register_kind
@final
@dataclass(frozen=True, eq=False)
class Controller(ReadingSchedule):
    """σ(scale) · σ(weight of one edit), both out of one two-layer network.

    The network reads activations x of its sites side by side, each brought to RMS 1, so that
    massive tokens are read as any other: `out @ relu(hidden @ x + hidden_bias) + out_bias`.
    Edits that share a network share its tensors, and it runs once a pass for all of them.

    Attributes:
        hidden, hidden_bias: `[hidden, inputs]`, inputs the sum of the sites' widths; `[hidden]`.
        out, out_bias: `[1 + edits, hidden]` and `[1 + edits]`: the common scale first, then one
            weight an edit.
        edit: which weight is this edit's.

    Raises:
        DimensionError: the parts don't fit together.
    """

    read: tuple[Site, ...]
    hidden: Tensor
    hidden_bias: Tensor
    out: Tensor
    out_bias: Tensor
    edit: int
    _on: dict[torch.device, tuple[Tensor, ...]] = field(
        init=False, default_factory=dict, repr=False
    )

    def __post_init__(self) -> None:
        shapes = [list(part.shape) for part in self._parts]
        n_hidden, n_outputs = len(self.hidden_bias), len(self.out_bias)
        fits = self.hidden.shape[:1] == (n_hidden,) and self.out.shape == (n_outputs, n_hidden)
        if not fits or not 0 <= self.edit < n_outputs - 1:
            raise DimensionError(
                f"controller: parts of shapes {shapes} don't make a network with a weight for "
                f"edit {self.edit}; expected [hidden, inputs], [hidden], [1 + edits, hidden] and "
                "[1 + edits]."
            )

    @property
    def sites(self) -> tuple[Site, ...]:
        """What it reads."""
        return self.read

    def factor(self, readings: Mapping[Site, Resid], memo: dict[Any, Any]) -> TokenFloat:
        """Between 0 and 1."""
        key = ("controller", id(self.hidden))
        if key not in memo:
            x = torch.cat([levelled(readings[site]) for site in self.read], dim=-1)
            memo[key] = torch.sigmoid(network(x, *self._placed(x.device)))
        return memo[key][..., 0] * memo[key][..., 1 + self.edit]

    @property
    def _parts(self) -> tuple[Tensor, ...]:
        return self.hidden, self.hidden_bias, self.out, self.out_bias

    def _placed(self, device: torch.device) -> tuple[Tensor, ...]:
        if device not in self._on:
            self._on[device] = tuple(part.to(device, torch.float32) for part in self._parts)
        return self._on[device]


def levelled(resid: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
    """Activations brought to RMS 1, token by token, in fp32."""
    return functional.normalize(resid.float(), dim=-1) * resid.shape[-1] ** 0.5


def network(
    x: Float[Tensor, "*rows inputs"],
    hidden: Float[Tensor, "hidden inputs"],
    hidden_bias: Float[Tensor, " hidden"],
    out: Float[Tensor, "outputs hidden"],
    out_bias: Float[Tensor, " outputs"],
) -> Float[Tensor, "*rows outputs"]:
    """Logits of the scale and of the weights."""
    return functional.linear(
        functional.relu(functional.linear(x, hidden, hidden_bias)), out, out_bias
    )
