"""What adding a feature does to the output, measured rather than read off its activations.

A feature that fires on a behaviour need not cause it. Here every candidate is added at the same
small share of ‖h‖ while the contrast's own texts are teacher-forced, and what counts is how much
more likely the wanted texts become than the unwanted ones.

Scored are the few tokens from where a text departs from its counterpart: later ones have seen which
side they are on, and mostly add noise. Effects measured on two halves of the built-in pairs (38
each) correlate over all features at 0.57 for sentiment and 0.24 for ocean this way, at 0.45 and
0.26 with whole texts, at 0.26 and 0.08 with second halves; for politeness at 0.13 to 0.16.
(Measured with an early checkpoint of the shipped SAE.)
So effects are averaged over pairs and carry a standard error: read it before believing an order.
Source: Arad et al. 2025, SAEs Are Good for Steering, If You Select the Right Features (2505.20063)
for choosing by an output score; scoring minimal pairs instead of the feature's own tokens is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saesteer.data.contrast import Contrast, Example, as_contrast
from saesteer.errors import ContrastError, DataError
from saesteer.features.activations import text_ids
from saesteer.metrics.outliers import median_norm, norms, outlier_tokens
from saesteer.models import Model, TokenBatch, as_model, install, pad_rows
from saesteer.models.limits import check_count
from saesteer.saes.checks import Features
from saesteer.saes.load import check_width
from saesteer.saes.sae import SAE

EFFECT_DOSE = 0.1
"""Share of ‖h‖ added: small enough for texts to stay likely, large enough to outrun rounding."""
EFFECT_PAIRS = 64
"""Pairs scored at most; the error falls with the root of their number, the time grows with it."""
SCORED_TOKENS = 3
"""Tokens scored from the point of departure: enough for a word split in pieces."""


@dataclass(frozen=True)
class LogitEffect:
    """Change of log p(positive) - log p(negative), nats per token, with its standard error.

    The error is over pairs, and None for a single pair.
    """

    mean: float
    error: float | None
    n_pairs: int


@dataclass(frozen=True)
class _Rows:
    """A padded batch of some of the texts, and which targets are scored (position 0 never is)."""

    texts: tuple[int, ...]
    tokens: TokenBatch
    scored: Bool[Tensor, "batch pos"]


def logit_effects(
    model: Model | nn.Module,
    sae: SAE,
    contrast: Contrast,
    features: Features,
    *,
    dose: float = EFFECT_DOSE,
    max_pairs: int = EFFECT_PAIRS,
    batch_size: int = 16,
) -> list[LogitEffect]:
    """Effect of adding each feature on the preference for the positives over their counterparts.

    The feature's unit decoder row is added at dose x ‖h‖ at every position of the SAE's site.
    Counterparts are the contrast's pairs, or the nth of either label where no ids match.

    Raises:
        ConfigError: `batch_size` below 1.
        SaeError, DimensionError: no SAE, or one of another width.
        FeatureError: a feature outside the SAE.
        DataError: no contrast, or no pair is long enough to be scored.
    """
    model = as_model(model)
    check_width(sae, model)
    chosen = sae.check_features(features)
    batches = _scored_batches(model, as_contrast(contrast), max_pairs, batch_size)
    return _measured(model, batches, (_pushed(model, sae, f, dose, batches) for f in chosen))


def change_effects(
    model: Model | nn.Module,
    contrast: Contrast,
    changes: Iterable[AbstractContextManager[object]],
    *,
    max_pairs: int = EFFECT_PAIRS,
    batch_size: int = 16,
) -> list[LogitEffect]:
    """The same effect of anything that changes the model while it is entered: `plan.on(model)`.

    Args:
        changes: entered one after the other, each for one pass over the pairs.

    Raises:
        ConfigError: `batch_size` below 1.
        DataError: no contrast, or no pair is long enough to be scored.
    """
    model = as_model(model)
    batches = _scored_batches(model, as_contrast(contrast), max_pairs, batch_size)
    return _measured(model, batches, changes)


def _measured(
    model: Model, batches: Sequence[_Rows], changes: Iterable[AbstractContextManager[object]]
) -> list[LogitEffect]:
    base = _preferences(model, batches)
    effects: list[LogitEffect] = []
    for change in changes:
        with change:
            moved = _preferences(model, batches) - base
        error = float(moved.std()) / len(moved) ** 0.5 if len(moved) > 1 else None
        effects.append(LogitEffect(float(moved.mean()), error, len(moved)))
    return effects


@contextmanager
def _pushed(
    model: Model, sae: SAE, feature: int, dose: float, batches: Sequence[_Rows]
) -> Iterator[None]:
    """The model with one feature's unit decoder row added."""
    direction = F.normalize(sae.w_dec[feature].float(), dim=0)
    handle = install(model.layout.point(sae.site), _Push(direction, dose, batches))
    try:
        yield
    finally:
        handle.remove()


class _Push:
    """Adds a direction at a share of each token's norm; outliers get the median's share.

    Batches are met in a known order, which says what is padding: it stays out of the median, and
    being on the right it reaches no token.
    """

    def __init__(self, direction: Tensor, dose: float, batches: Sequence[_Rows]) -> None:
        self.direction = direction
        self.dose = dose
        self.masks = iter([batch.tokens.attention_mask for batch in batches])

    def __call__(self, resid: Tensor) -> Tensor:
        valid = next(self.masks).to(resid.device)
        median = median_norm(resid, valid)
        lengths = torch.where(outlier_tokens(resid, valid), median, norms(resid))
        direction = self.direction.to(resid.device)
        return resid + (self.dose * lengths.unsqueeze(-1) * direction).to(resid.dtype)


def _counterparts(contrast: Contrast) -> list[tuple[Example, Example]]:
    try:
        return contrast.pairs()
    except ContrastError:
        return list(zip(contrast.positives, contrast.negatives, strict=False))


def _cut_texts(
    model: Model, pairs: Sequence[tuple[Example, Example]]
) -> list[tuple[list[int], int]]:
    """Ids of each pair's two texts up to the last scored token, and where scoring starts.

    Raises:
        DataError: no pair leaves a token to score.
    """
    texts: list[tuple[list[int], int]] = []
    for pair in pairs:
        sides = [text_ids(model, example) for example in pair]
        own = [ids[n_prefix:] for ids, n_prefix in sides]
        shared = common_length(*own) if pair[0].prompt == pair[1].prompt else 0
        starts = [max(n_prefix + shared, 1) for _, n_prefix in sides]
        if all(len(ids) > start for (ids, _), start in zip(sides, starts, strict=True)):
            texts += [
                (ids[: start + SCORED_TOKENS], start)
                for (ids, _), start in zip(sides, starts, strict=True)
            ]
    if not texts:
        raise DataError("no pair of texts is long enough to be scored; give longer texts.")
    return texts


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Leading ids that two texts share, at most all but the last of the shorter one."""
    limit = min(len(left), len(right)) - 1
    return next((i for i in range(limit) if left[i] != right[i]), limit)


def _scored_batches(model: Model, contrast: Contrast, max_pairs: int, size: int) -> list[_Rows]:
    """Padded batches, longest texts first; texts 2n and 2n + 1 are a pair."""
    check_count("batch_size", size)
    texts = _cut_texts(model, _counterparts(contrast)[:max_pairs])
    order = sorted(range(len(texts)), key=lambda text: -len(texts[text][0]))
    batches: list[_Rows] = []
    for first in range(0, len(order), size):
        chosen = order[first : first + size]
        tokens = pad_rows([texts[text][0] for text in chosen], model.pad_id, side="right")
        starts = torch.tensor([texts[text][1] for text in chosen]).unsqueeze(1)
        scored = tokens.attention_mask & (torch.arange(tokens.input_ids.shape[1]) >= starts)
        batches.append(_Rows(tuple(chosen), tokens.to(model.device), scored))
    return batches


@torch.no_grad()
def _preferences(model: Model, batches: Sequence[_Rows]) -> Float[Tensor, " pairs"]:
    """Mean log-probability of each positive's scored tokens less that of its counterpart's."""
    means = torch.zeros(sum(len(batch.texts) for batch in batches), dtype=torch.float64)
    for batch in batches:
        ids = batch.tokens.input_ids[:, 1:]
        scored = batch.scored[:, 1:].to(ids.device)
        logits = model.forward(batch.tokens)[:, :-1][scored].float()
        ce = F.cross_entropy(logits, ids[scored], reduction="none").double().cpu()
        for text, losses in zip(batch.texts, ce.split(scored.sum(-1).tolist()), strict=True):
            means[text] = -losses.mean()
    return means[0::2] - means[1::2]
