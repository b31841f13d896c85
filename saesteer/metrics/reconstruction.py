"""How well an SAE rebuilds activations, over a sample that arrives in batches.

The mean h̄ is only known at the end, and both figures of unexplained variance measure every token
against it, so the tokens themselves are kept (4·d_model bytes each in fp32: 460 MB for 200,000
tokens of width 576) instead of running the model twice or subtracting large sums from each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saesteer.errors import DataError, DimensionError
from saesteer.metrics.density import Density, density_of


@dataclass(frozen=True)
class ReconstructionScores:
    """Scores over the kept tokens.

    Attributes:
        fvu: ratio of sums, Σ‖h − ĥ‖² / Σ‖h − h̄‖².
        fvu_per_token: mean over tokens of ‖h − ĥ‖² / ‖h − h̄‖².
        l0: mean number of positive latents a token.
        never_fired: share of latents that fired on none of these tokens; on few tokens most of
            these are rare, not dead.
        density: how often each latent fires.
        n_tokens: tokens kept.
    """

    fvu: float
    fvu_per_token: float
    l0: float
    never_fired: float
    density: Density
    n_tokens: int


class ReconstructionSums:
    """Collects batches; `scores` is exact for all of them together, in any order."""

    def __init__(self, d_sae: int) -> None:
        self._resid: list[Tensor] = []
        self._error: list[Tensor] = []
        self._fired = torch.zeros(d_sae, dtype=torch.long)

    def add(
        self,
        resid: Float[Tensor, "*batch d_model"],
        recon: Float[Tensor, "*batch d_model"],
        latents: Float[Tensor, "*batch d_sae"],
        keep: Bool[Tensor, "*batch"] | Int[Tensor, "*batch"] | None = None,
    ) -> None:
        """Take in a batch: activations, their reconstruction, the latents, and what counts.

        Args:
            keep: True for tokens that count: no padding, no special tokens, no outliers.
                0s and 1s will do, as tokenizers return them.

        Raises:
            DimensionError: the shapes don't fit each other or an earlier batch; nothing is added.
        """
        if keep is None:
            keep = torch.ones(resid.shape[:-1], dtype=torch.bool, device=resid.device)
        self._check_shapes(resid, recon, latents, keep)
        keep = keep.bool()
        kept = resid[keep].float()
        self._resid.append(kept.cpu())
        self._error.append((kept - recon[keep].float()).square().sum(-1).cpu())
        self._fired += (latents[keep] > 0).sum(0).cpu()

    def _check_shapes(self, resid: Tensor, recon: Tensor, latents: Tensor, keep: Tensor) -> None:
        width = self._resid[0].shape[-1] if self._resid else resid.shape[-1]
        tokens = resid.shape[:-1]
        for name, tensor, expected in (
            ("resid", resid, (*tokens, width)),
            ("recon", recon, (*tokens, width)),
            ("latents", latents, (*tokens, len(self._fired))),
            ("keep", keep, tuple(tokens)),
        ):
            if tuple(tensor.shape) != expected:
                raise DimensionError(
                    f"{name} has shape {tuple(tensor.shape)}, expected {expected}, "
                    "as the activations and the batches before have it."
                )

    @property
    def n_tokens(self) -> int:
        """Tokens kept so far."""
        return sum(len(error) for error in self._error)

    def mean(self) -> Float[Tensor, " d_model"]:
        """h̄, the mean activation of the kept tokens, in fp32.

        Raises:
            DataError: no token was kept.
        """
        if not self.n_tokens:
            raise DataError("no tokens to score: the text is empty or all of it was left out.")
        total = torch.stack([rows.double().sum(0) for rows in self._resid]).sum(0)
        return (total / self.n_tokens).float()

    def scores(self) -> ReconstructionScores:
        """All scores over everything added.

        Raises:
            DataError: fewer than two tokens, or tokens that are all alike.
        """
        centre = self.mean()
        spread = torch.cat([(r - centre).square().sum(-1) for r in self._resid]).double()
        error = torch.cat(self._error).double()
        if self.n_tokens < 2 or not bool((spread > 0).all()):
            raise DataError(
                f"{self.n_tokens} tokens without variance can't be scored; give more text."
            )
        return ReconstructionScores(
            fvu=float(error.sum() / spread.sum()),
            fvu_per_token=float((error / spread).mean()),
            l0=int(self._fired.sum()) / self.n_tokens,
            never_fired=float((self._fired == 0).double().mean()),
            density=density_of(self._fired, self.n_tokens),
            n_tokens=self.n_tokens,
        )
