"""Concepts made from labelled texts: which latents speak for a label, and from what score on.

Source: Helff et al. 2025, ActivationReasoning (2510.18184): latents by the difference of means,
thresholds by balanced accuracy. Chosen: means count texts alike, however long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saesteer.data.contrast import Contrast
from saesteer.errors import ContrastError
from saesteer.features.activations import Pool
from saesteer.features.concepts import Concept, FeatureReadout
from saesteer.features.find import latent_stats
from saesteer.features.thresholds import share_above
from saesteer.models import Model
from saesteer.saes.sae import SAE

Scope = Literal["local", "global"]
"""Whether a concept is judged token by token, or on the mean over a prompt."""


def mean_difference(
    model: Model, sae: SAE, contrast: Contrast, pool: Pool = "mean"
) -> Float[Tensor, " d_sae"]:
    """Mean latents of the train positives less those of the negatives, texts counting alike."""
    train = contrast.split("train")
    pooled = latent_stats(model, sae, train.examples, pool=pool).pooled
    positive = torch.tensor([example.label == 1 for example in train.examples])
    return pooled[positive].mean(0) - pooled[~positive].mean(0)


def fit_concept(
    name: str,
    sae: SAE,
    weights: Float[Tensor, " d_sae"],
    rows: Sequence[Float[Tensor, "n_tokens d_model"]],
    labels: Bool[Tensor, " texts"],
    n_features: int,
    scope: Scope,
) -> Concept:
    """The `n_features` latents of largest positive weight, weighted to sum 1, and their threshold.

    Args:
        rows: each text's activations at the SAE's site; `labels` says which texts show the concept.

    Raises:
        ContrastError: no weight is positive.
        SaeError: a true TopK SAE, which has no exact slices.
    """
    best = weights.topk(min(n_features, len(weights)))
    values = best.values[best.values > 0]
    features = best.indices[: len(values)].tolist()
    if not features:
        raise ContrastError(
            f"concept {name}: no latent of SAE {sae.name} fires more where it holds; "
            "check that the texts differ."
        )
    readout = FeatureReadout(tuple(features), tuple((values / values.sum()).tolist()))
    columns, mix = sae.slice(features), torch.tensor(readout.weights)
    scores = [columns.read(row.to(sae.device)).float().cpu() @ mix for row in rows]
    if scope == "global":
        read = [i for i, score in enumerate(scores) if len(score)]
        means = torch.stack([scores[i].mean() for i in read])
        return Concept(name, readout, balanced_cut(means, labels[read]), "prompt", "mean")
    counts = torch.tensor([len(score) for score in scores])
    return Concept(name, readout, balanced_cut(torch.cat(scores), labels.repeat_interleave(counts)))


def balanced_cut(scores: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> float:
    """The threshold whose `score > τ` has the best balanced accuracy; the score itself if all tie.

    Midway between the two scores that it parts; of equally good ones the widest gap.
    """
    values = scores.double().unique()
    if len(values) == 1:
        return float(values[0])
    gaps = values[1:] - values[:-1]
    cuts = values[:-1] + gaps / 2
    recall, fall_out = share_above(scores[positive], cuts), share_above(scores[~positive], cuts)
    accuracy = (recall + 1 - fall_out) / 2
    best = (accuracy >= accuracy.max() - 1e-6).nonzero().flatten()
    return float(cuts[best[gaps[best].argmax()]])
