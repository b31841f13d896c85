"""A latent that is told what to mean: SCAR's supervised loss beside any TopK-family loss.

Source: Härle et al. 2024, SCAR: Sparse Conditioned Autoencoders for Concept Detection and Steering.
The loss is BCE(sigmoid(pre), label), pre the latent's pre-activation before any cut, its mean over
the labelled tokens of a batch. The latent competes with all others for the places that top-k has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from saesteer.axes import Rows
from saesteer.training.coder import StepResult
from saesteer.training.sparse import SparseCoder
from saesteer.training.told import ToldCoder


@final
class SupervisedCoder(ToldCoder):
    """Any sparse coder, of which one latent is supervised; the last column of a batch is labels.

    Labels are 0 and 1, NaN where there is none. Figures of a batch without labels are NaN.
    """

    def __init__(self, inner: SparseCoder, latent: int, weight: float) -> None:
        super().__init__(inner)
        self._latent, self._weight = latent, weight

    def further(
        self, result: StepResult, rows: Rows, told: Float[Tensor, " n"]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The weighted BCE."""
        del result
        pre = self.inner.pre(rows, self._latent)
        supervised = supervised_loss(pre, told)
        labelled = ~told.isnan()
        right = ((pre > 0) == (told > 0.5)) & labelled
        n_labelled = labelled.sum()
        return self._weight * supervised, {
            "supervised_loss": torch.where(n_labelled > 0, supervised.detach(), torch.nan),
            "supervised_accuracy": right.sum() / n_labelled,
            "labelled_fraction": n_labelled / len(told),
        }


def supervised_loss(pre: Float[Tensor, " n"], labels: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean BCE of the tokens whose label is not NaN, in nats; 0 if there are none."""
    labelled = ~labels.isnan()
    each = F.binary_cross_entropy_with_logits(pre, labels.nan_to_num(), reduction="none")
    return (each * labelled).sum() / labelled.sum().clamp(min=1)
