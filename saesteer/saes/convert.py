"""A true TopK SAE as a threshold, with the price of it: no threshold reproduces TopK's choices.

The 32nd largest of a token's pre-activations varies three-fold between tokens, so one θ keeps the
mean L0 and little else; that is why the fraction of variance unexplained is reported before and
after, and why the conversion is asked for and never made in silence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.errors import DataError
from saesteer.metrics.outliers import usual_rows
from saesteer.metrics.reconstruction import ReconstructionScores, ReconstructionSums
from saesteer.saes.sae import SAE

CHUNK = 1024
"""Tokens encoded at a time: 1024 x 65,536 latents in fp32 are 256 MB."""


@dataclass(frozen=True)
class ConversionReport:
    """Pooled FVU and mean L0 on the sample, of the TopK and of the threshold form."""

    fvu_before: float
    fvu_after: float
    l0_before: float
    l0_after: float


@torch.no_grad()
def to_threshold(sae: SAE, resid: Float[Tensor, "*batch d_model"]) -> tuple[SAE, ConversionReport]:
    """Fit one threshold to the mean L0 that TopK has on `resid`, outlier tokens left out.

    An SAE that is a threshold already comes back as it is. Memory: all positive pre-activations
    of the sample, some hundreds a token in a trained SAE.

    Args:
        sae: any SAE.
        resid: activations at its site, a few thousand tokens or more.

    Raises:
        DataError: fewer than two tokens.
        DimensionError: the activations have another width.
    """
    rows = usual_rows(resid)
    if len(rows) < 2:
        raise DataError(f"a threshold can't be fitted to {len(rows)} tokens; give some thousands.")
    converted = sae
    if sae.activation == "topk":
        theta = _fit(sae, rows)
        metadata = {**sae.metadata, "converted_from": f"topk, k = {sae.k}"}
        converted = replace(
            sae,
            activation="jumprelu",
            k=None,
            threshold=torch.full_like(sae.threshold, theta),
            metadata=metadata,
        )
    before, after = scores_of(sae, rows), scores_of(converted, rows)
    return converted, ConversionReport(before.fvu, after.fvu, before.l0, after.l0)


def _fit(sae: SAE, rows: Tensor) -> float:
    """θ above which lie exactly as many pre-activations as TopK keeps, ties aside."""
    kept, positive = 0, []
    for chunk in rows.split(CHUNK):
        kept += int((sae.encode(chunk) > 0).sum())
        pre = sae.pre(chunk)
        positive.append(pre[pre > 0])
    values = torch.cat(positive).sort(descending=True).values
    if kept >= len(values) or kept == 0:
        return 0.0 if kept else float("inf")
    return float((values[kept - 1].double() + values[kept].double()) / 2)


def scores_of(sae: SAE, rows: Float[Tensor, "n d_model"]) -> ReconstructionScores:
    """How well an SAE rebuilds activations, a chunk of them at a time."""
    sums = ReconstructionSums(sae.d_sae)
    for chunk in rows.split(CHUNK):
        latents = sae.encode(chunk)
        sums.add(sae.seen(chunk), sae.decode(latents), latents)
    return sums.scores()
