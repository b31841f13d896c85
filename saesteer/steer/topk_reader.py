"""Reads some features of a true TopK SAE, where whether one lives depends on all the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saesteer.saes.sae import SAE


@final
@dataclass(frozen=True, eq=False)
class TopKReader:
    """A true TopK SAE read in full, of which some features are used."""

    sae: SAE
    features: tuple[int, ...]

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return self.sae.d_model

    @property
    def w_dec(self) -> Float[Tensor, "k d_model"]:
        """Decoder rows of the used features."""
        return self.sae.w_dec[list(self.features)]

    def read(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch k"]:
        """Activations of the used features among all: a few comparisons, no row of all latents."""
        pre = self.sae.pre(resid)
        used = pre[..., list(self.features)]
        top = pre.topk(self.sae.k or 0, dim=-1).indices
        lives = (top[..., None, :] == self._wanted(top.device)).any(-1)
        return torch.where(lives, used.relu(), 0.0)

    def _wanted(self, device: torch.device) -> Int[Tensor, "k 1"]:
        return torch.tensor(self.features, device=device)[:, None]

    def delta(self, change: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch d_model"]:
        """What a change of the used features adds to the residual."""
        return change @ self.w_dec

    def to(self, device: torch.device | str, dtype: torch.dtype) -> TopKReader:
        """The same reader elsewhere."""
        return replace(self, sae=self.sae.to(device, dtype))
