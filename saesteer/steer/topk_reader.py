"""Reads some features of a true TopK SAE, where whether one lives depends on all the others.

The others are needed only to rank. That costs what reading the encoder's weights costs, so in a
bfloat16 model the ranking is done in bfloat16, to which the activations are rounded anyway. The
values of the features in use are in fp32 always.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from saesteer.axes import Rows
from saesteer.saes.sae import SAE, affine

Encoder = tuple[Float[Tensor, "d_sae d_model"], Float[Tensor, " d_sae"]]
_ENCODERS: weakref.WeakKeyDictionary[SAE, dict[torch.dtype, Encoder]] = weakref.WeakKeyDictionary()


@final
@dataclass(frozen=True, eq=False)
class TopKReader:
    """A true TopK SAE read in full, of which some features are used.

    Attributes:
        rank_in: the dtype in which latents are ranked, as torch spells it.
    """

    sae: SAE
    features: tuple[int, ...]
    rank_in: str = "float32"
    index: Int[Tensor, " k"] = field(init=False, repr=False)
    w_enc: Float[Tensor, "d_model k"] = field(init=False, repr=False)
    b_enc: Float[Tensor, " k"] = field(init=False, repr=False)
    w_dec: Float[Tensor, "k d_model"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Gather what the used features need, once: their numbers, columns and rows.

        Raises:
            FeatureError: the SAE has no such feature.
        """
        self.sae.check_features(self.features)
        index = torch.tensor(self.features, device=self.sae.device)
        object.__setattr__(self, "index", index)
        object.__setattr__(self, "w_enc", self.sae.w_enc[:, index].contiguous())
        object.__setattr__(self, "b_enc", self.sae.b_enc[index])
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
        rows, k = resid.reshape(-1, resid.shape[-1]), self.sae.k or 0
        if self.sae.apply_b_dec_to_input:
            rows = rows - self.sae.b_dec
        pre = self._rank(rows)
        used = ranked = pre.index_select(-1, self.index)
        if len(self.features) == 1:
            lives = (pre > ranked).sum(-1, keepdim=True) < k
        else:
            lives = ranked >= pre.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
        if pre.dtype != rows.dtype:
            used = affine(rows, self.w_enc, self.b_enc)
        return torch.where(lives, used.relu(), 0.0).view(*resid.shape[:-1], -1)

    def delta(self, change: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch d_model"]:
        """What a change of the used features adds to the residual."""
        return change @ self.w_dec

    def to(self, device: torch.device | str, dtype: torch.dtype) -> TopKReader:
        """The same reader elsewhere."""
        if torch.device(device) == self.sae.device and dtype == self.sae.dtype:
            return self
        return replace(self, sae=self.sae.to(device, dtype))

    def _rank(self, rows: Rows) -> Float[Tensor, "n d_sae"]:
        """Pre-activations of all latents, to be ranked."""
        dtype: torch.dtype = getattr(torch, self.rank_in)
        if dtype == self.sae.dtype:
            return affine(rows, self.sae.w_enc, self.sae.b_enc)
        weight, bias = _encoder(self.sae, dtype)
        return functional.linear(rows.to(dtype), weight, bias)


def _encoder(sae: SAE, dtype: torch.dtype) -> Encoder:
    """The encoder with one row per latent, and its bias; made once for each SAE."""
    made = _ENCODERS.setdefault(sae, {})
    if dtype not in made:
        made[dtype] = sae.w_enc.to(dtype).t().contiguous(), sae.b_enc.to(dtype)
    return made[dtype]
