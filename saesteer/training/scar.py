"""A latent that is told what to mean: SCAR's supervised loss beside any TopK-family loss.

Source: Härle et al. 2024, SCAR: Sparse Conditioned Autoencoders for Concept Detection and Steering.
The loss is BCE(sigmoid(pre), label), pre the latent's pre-activation before any cut, its mean over
the labelled tokens of a batch. The latent competes with all others for the places that top-k has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from saesteer.axes import Rows
from saesteer.models import Site
from saesteer.saes import AnyCoder
from saesteer.training.coder import Coder, StepResult
from saesteer.training.sparse import SparseCoder


@final
class SupervisedCoder(Coder):
    """Any sparse coder, of which one latent is supervised; the last column of a batch is labels.

    Labels are 0 and 1, NaN where there is none. Figures of a batch without labels are NaN.
    """

    def __init__(self, inner: SparseCoder, latent: int, weight: float) -> None:
        super().__init__()
        self.inner, self._latent, self._weight = inner, latent, weight

    def loss(self, batch: Rows, dead: Int[Tensor, " n_dead"] | None) -> StepResult:
        """The coder's own loss plus the weighted BCE."""
        rows, labels = batch[:, :-1], batch[:, -1].float()
        result = self.inner.loss(rows, dead)
        pre = self.inner.pre(rows, self._latent)
        supervised = supervised_loss(pre, labels)
        labelled = ~labels.isnan()
        right = ((pre > 0) == (labels > 0.5)) & labelled
        n_labelled = labelled.sum()
        extra = {
            "supervised_loss": torch.where(n_labelled > 0, supervised.detach(), torch.nan),
            "supervised_accuracy": right.sum() / n_labelled,
            "labelled_fraction": n_labelled / len(labels),
        }
        loss = result.loss + self._weight * supervised
        return replace(result, loss=loss, extra={**result.extra, **extra})

    def initialise(self, sample: Rows) -> None:
        """Set what depends on data, which labels don't."""
        self.inner.initialise(sample[:, :-1])

    def before_update(self) -> None:
        """As the coder itself."""
        self.inner.before_update()

    def after_update(self, result: StepResult) -> None:
        """As the coder itself."""
        self.inner.after_update(result)

    def figures(self) -> dict[str, float]:
        """As the coder itself."""
        return self.inner.figures()

    def to_sae(self, sites: Sequence[Site], model_name: str) -> AnyCoder:
        """As the coder itself: the supervised latent ships as any other."""
        return self.inner.to_sae(sites, model_name)


def supervised_loss(pre: Float[Tensor, " n"], labels: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean BCE of the tokens whose label is not NaN, in nats; 0 if there are none."""
    labelled = ~labels.isnan()
    each = F.binary_cross_entropy_with_logits(pre, labels.nan_to_num(), reduction="none")
    return (each * labelled).sum() / labelled.sum().clamp(min=1)
