"""Edits that exist while a method is learned; no plan keeps them, so they may see whole texts.

They go through the engine as others do: what is learned is what will act.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saesteer.axes import Resid
from saesteer.steer import Intervention


@final
@dataclass(frozen=True, eq=False)
class TopKAdd(Intervention):
    """What ReFT-r1 learns with: a direction times the mean of a text's largest latents.

    Attributes:
        edited: 1 where latents count, `[rows, pos]`.
        seen: gets, at each pass, what each row was given and its other latents' mean, `[rows]`.
    """

    direction: Float[Tensor, " width"]
    edited: Float[Tensor, "rows pos"]
    k: int
    seen: list[tuple[Tensor, Tensor]]

    @property
    def width(self) -> int:
        """Size of the direction."""
        return self.direction.shape[0]

    def describe(self) -> str:
        """What it is."""
        return f"the {self.k} largest latents"

    def delta(self, resid: Resid) -> Resid:
        """The direction times the mean of each text's largest latents."""
        latents = functional.relu(resid.float() @ self.direction) * self.edited
        counts = self.edited.sum(-1).clamp(min=1)
        top = latents.topk(min(self.k, latents.shape[-1]), dim=-1).values
        size = top.sum(-1) / counts.clamp(max=self.k)
        self.seen.append((size, (latents.sum(-1) - top.sum(-1)) / counts))
        return size[:, None, None] * self.direction.expand(resid.shape)


@final
@dataclass(frozen=True, eq=False)
class TakeOut(Intervention):
    """What RePS suppresses with: h − ReLU(h · w) w / ‖w‖²."""

    direction: Float[Tensor, " width"]

    @property
    def width(self) -> int:
        """Size of the direction."""
        return self.direction.shape[0]

    def describe(self) -> str:
        """What it is."""
        return "take out a direction where it points forward"

    def delta(self, resid: Resid) -> Resid:
        """Minus the projection, where it is positive."""
        along = functional.relu(resid.float() @ self.direction) / self.direction.square().sum()
        return -along[..., None] * self.direction
