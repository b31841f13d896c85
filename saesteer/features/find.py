"""Features that tell a contrast's positives from its negatives, ranked for steering.

Steering wants a feature that belongs to the positives, and rarely fires on anything else. So the
ranking is signed (features of the negatives come last, not first) and dense features lose:
score = Cohen's d x (1 - density), over latents pooled per example.
Firing is not causing: with `effects` the best are measured on the output and reordered by that.

Why this score: with an SAE of 2 M tokens on the embedded model, the five best by d changed held-out
sentiment pairs by 0.17 nats (standard deviation over all features 0.07) and ocean pairs by 0.08
(0.05); AUROC, difference of means, share of the peak and their products did no better on both. For
politeness none did better than chance.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saesteer.data.contrast import Contrast, as_contrast
from saesteer.errors import DataError
from saesteer.features.activations import (
    Examples,
    Pool,
    as_examples,
    check_pool,
    kept_tokens,
    text_batches,
)
from saesteer.features.effects import logit_effects
from saesteer.features.separation import auroc, cohens_d
from saesteer.models import Model, as_model, record
from saesteer.models.limits import check_count, finite_rows
from saesteer.saes.load import check_width
from saesteer.saes.sae import SAE

MIN_EXAMPLES = 3
"""A feature that fires in fewer examples is not ranked: one text can't show what it stands for."""


@dataclass(frozen=True)
class FoundFeature:
    """One feature and how it tells the two labels apart.

    Attributes:
        score: what the ranking sorts by, where no effect was measured.
        auroc: of its pooled latent, over examples; 0.5 is chance.
        effect_size: Cohen's d of its pooled latent, positives minus negatives.
        mean_pos: pooled latent averaged over positives, in latent units; `mean_neg` likewise.
        max_activation: largest latent on any token read: the unit of strengths such as "2 x max".
        density: share of tokens on which it fires.
        logit_effect: nats per token by which adding it favours the positives (`logit_effects`).
        logit_effect_error: its standard error over pairs; None for a single pair.
    """

    index: int
    score: float
    auroc: float
    effect_size: float
    mean_pos: float
    mean_neg: float
    max_activation: float
    density: float
    logit_effect: float | None = None
    logit_effect_error: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class LatentStats:
    """What one pass over some examples leaves of their latents; outliers and padding are out.

    Attributes:
        pooled: one row per example.
        fired: tokens on which each feature fires, of `n_tokens`.
        peak: largest latent of each feature.
    """

    pooled: Float[Tensor, "examples d_sae"]
    fired: Float[Tensor, " d_sae"]
    peak: Float[Tensor, " d_sae"]
    n_tokens: int


def find_features(
    model: Model | nn.Module,
    sae: SAE,
    contrast: Contrast,
    *,
    top: int = 20,
    effects: int = 0,
    split: str = "train",
    pool: Pool = "mean",
    min_examples: int = MIN_EXAMPLES,
    batch_size: int = 16,
) -> list[FoundFeature]:
    """The `top` features of the contrast's positives, best first.

    Args:
        effects: measure the effect of steering with this many of the best on the validation split
            together with `split` (one alone is too few pairs), and put them first, by that effect.
        pool: how the tokens' latents become one value per example.

    Raises:
        ConfigError: `top` or `batch_size` below 1, fewer than 0 effects, or no such pool.
        ContrastError: it is none, such as its name, or `split` is empty or one-sided.
        DimensionError: model and SAE have different widths.
        SiteError: the model has no such layer.
    """
    check_count("top", top)
    check_count("effects", effects, 0)
    model = as_model(model)
    check_width(sae, model)
    chosen = as_contrast(contrast).split(split)
    stats = latent_stats(model, sae, chosen.examples, pool=pool, batch_size=batch_size)
    positive = torch.tensor([example.label == 1 for example in chosen.examples])
    ranked = rank_features(stats, positive, top=max(top, effects), min_examples=min_examples)
    if effects > 0:
        scored = tuple(e for e in contrast.examples if e.split in ("validation", split))
        best = ranked[:effects]
        indices = [found.index for found in best]
        measured = logit_effects(model, sae, Contrast(scored, contrast.name), indices)
        pairs = sorted(zip(measured, best, strict=True), key=lambda pair: -pair[0].mean)
        ranked[:effects] = [
            replace(found, logit_effect=effect.mean, logit_effect_error=effect.error)
            for effect, found in pairs
        ]
    return ranked[:top]


@torch.no_grad()
def latent_stats(
    model: Model,
    sae: SAE,
    examples: Examples,
    *,
    pool: Pool = "mean",
    batch_size: int = 16,
) -> LatentStats:
    """Pool the latents of each example's own tokens, and count firing over all of them.

    A text whose tokens are all outliers pools to zeros.

    Raises:
        ConfigError: no such pool, or `batch_size` below 1.
        DataError: a text that can't be read, or NaN comes back.
    """
    check_pool(pool)
    examples = as_examples(examples)
    pooled = torch.zeros(len(examples), sae.d_sae)
    fired, peak = torch.zeros(sae.d_sae), torch.zeros(sae.d_sae)
    n_tokens = 0
    for batch in text_batches(model, examples, batch_size):
        resid = record(model, batch.tokens, [sae.site])[sae.site]
        kept = kept_tokens(resid, batch).to(resid.device)
        for line, row in enumerate(batch.rows):
            if not kept[line].any():
                continue
            rows = finite_rows(resid[line][kept[line]], model, sae.site)
            latents = sae.encode(rows.to(sae.device)).float().cpu()
            pooled[row] = _pooled(latents, pool)
            fired += (latents > 0).sum(0)
            peak = torch.maximum(peak, latents.amax(0))
            n_tokens += len(latents)
    return LatentStats(pooled, fired, peak, n_tokens)


def _pooled(latents: Float[Tensor, "n d_sae"], pool: Pool) -> Float[Tensor, " d_sae"]:
    match pool:
        case "mean":
            return latents.mean(0)
        case "max":
            return latents.amax(0)
        case "last":
            return latents[-1]
        case "rate":
            return (latents > 0).float().mean(0)


def max_activations(
    model: Model | nn.Module, sae: SAE, texts: Examples, *, batch_size: int = 16
) -> Float[Tensor, " d_sae"]:
    """Largest activation of every feature on some texts, in latent units: the unit of strengths.

    0 for a feature that never fires there. Outlier tokens are left out.

    Raises:
        ConfigError: `batch_size` below 1.
        DataError: no texts, or what is none, or one without tokens.
    """
    texts = as_examples(texts)
    if not texts:
        raise DataError("max_activations: no texts; give some on which the features fire.")
    model = as_model(model)
    check_width(sae, model)
    return latent_stats(model, sae, texts, batch_size=batch_size).peak


def rank_features(
    stats: LatentStats,
    positive: Tensor,
    *,
    top: int,
    min_examples: int = MIN_EXAMPLES,
) -> list[FoundFeature]:
    """Score every feature that fires in `min_examples` or more, and keep the best; see the module.

    Ties go to the lower index, so the ranking is the same on every machine.
    """
    kept = ((stats.pooled > 0).sum(0) >= min_examples).nonzero().flatten()
    pooled = stats.pooled[:, kept]
    density = stats.fired[kept] / max(stats.n_tokens, 1)
    area, effect = auroc(pooled, positive), cohens_d(pooled, positive)
    score = effect * (1 - density)
    means = pooled[positive].mean(0), pooled[~positive].mean(0)
    order = score.argsort(descending=True, stable=True)[:top]
    columns = (kept, score, area, effect, *means, stats.peak[kept], density)
    rows = (column[order].tolist() for column in columns)
    return [FoundFeature(int(i), *values) for i, *values in zip(*rows, strict=True)]
