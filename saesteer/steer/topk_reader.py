"""Reads some features of a true TopK SAE, where whether one lives depends on all the others."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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
    index: Int[Tensor, " k"] = field(init=False, repr=False)
    w_dec: Float[Tensor, "k d_model"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Gather what the used features need, once: their numbers and their decoder rows.

        Raises:
            FeatureError: the SAE has no such feature.
        """
        self.sae.check_features(self.features)
        index = torch.tensor(self.features, device=self.sae.device)
        object.__setattr__(self, "index", index)
        object.__setattr__(self, "w_dec", self.sae.w_dec[index])

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return self.sae.d_model

    def read(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch k"]:
        """Activations of the used features among all.

        One lives if fewer than k latents are larger. That is counted for a single feature; for
        more, the k-th largest says it for all of them. Latents that tie for the last place all
        live here, where `encode` keeps any of them.
        """
        pre, k = self.sae.pre(resid), self.sae.k or 0
        used = pre.index_select(-1, self.index)
        if len(self.features) == 1:
            lives = (pre > used).sum(-1, keepdim=True) < k
        else:
            lives = used >= pre.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
        return torch.where(lives, used.relu(), 0.0)

    def delta(self, change: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch d_model"]:
        """What a change of the used features adds to the residual."""
        return change @ self.w_dec

    def to(self, device: torch.device | str, dtype: torch.dtype) -> TopKReader:
        """The same reader elsewhere."""
        return replace(self, sae=self.sae.to(device, dtype))
