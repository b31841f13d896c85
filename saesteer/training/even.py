"""As many latents on one kind of text as on another, beside any loss with one threshold.

BatchTopK shares k latents a token out over a batch, and its one threshold lets some kinds of text
have many more than others. Here every path of text has its own L0, and the loss is the mean over
paths of max(0, L0 / k - 1)²: those below k need no push, since what others give up comes to them.
A count has no gradient: that of its step is taken as JumpReLU does (Rajamanoharan et al. 2024),
over latents that are active but near the threshold. The threshold follows them, so that the batch
keeps its k a token; what would move all of them alike is left out, else they would sink together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Rows
from saesteer.training.coder import StepResult
from saesteer.training.sparse import SparseCoder
from saesteer.training.told import ToldCoder

_NEAR = 0.2
"""A latent counts as near the threshold up to so much above it, as a share of it."""


@final
class EvenCoder(ToldCoder):
    """Any sparse coder with a threshold; the last column of a batch is the number of its path."""

    def __init__(self, inner: SparseCoder, weight: float, names: Sequence[str]) -> None:
        super().__init__(inner)
        self._weight, self._names = weight, tuple(names)

    def further(
        self, result: StepResult, rows: Rows, told: Float[Tensor, " n"]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """How far each path's L0 is above k, and the L0 of each, NaN where it has no row."""
        del rows
        assert result.survivors is not None
        row, latents = result.survivors
        running = self.inner.threshold
        cut = torch.where(running > 0, running, result.threshold)
        path, active = told.long(), Count.apply(latents, cut)
        none = told.new_zeros(len(self._names))
        n_rows = none.index_add(0, path, torch.ones_like(told))
        l0 = none.index_add(0, path[row], active) / n_rows.clamp(min=1)
        there = n_rows > 0
        uneven = ((l0 / self.inner.settings.k - 1).relu().square() * there).sum() / there.sum()
        shown = torch.where(there, l0.detach(), torch.nan).unbind()
        named = {f"l0_{name}": value for name, value in zip(self._names, shown, strict=True)}
        return self._weight * uneven, {"uneven": uneven.detach(), **named}


class Count(torch.autograd.Function):
    """1 for every latent that is not 0; its slope is 1 / (_NEAR cut) from `cut` on, for `_NEAR`,
    less the mean slope, by which the threshold moves."""

    @staticmethod
    def forward(ctx: Any, latents: Float[Tensor, " n"], cut: Float[Tensor, ""]) -> Tensor:
        """Ones and zeros."""
        ctx.save_for_backward(latents, cut)
        return (latents != 0).to(latents)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """The step's slope."""
        latents, cut = ctx.saved_tensors
        near = (latents >= cut) & (latents < (1 + _NEAR) * cut)
        mean = (grad * near).sum() / near.sum().clamp(min=1)
        return torch.where(near, (grad - mean) / (_NEAR * cut), 0.0), None
