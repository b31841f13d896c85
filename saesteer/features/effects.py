"""What adding a feature does to the output, measured rather than read off its activations.

A feature that fires on a behaviour need not cause it. Here every candidate is added at the same
small share of ‖h‖ while the contrast's own texts are teacher-forced, and what counts is how much
more likely the wanted texts become than the unwanted ones.
Source: Arad et al. 2025, SAEs Are Good for Steering, If You Select the Right Features (2505.20063)
for choosing by an output score; scoring whole texts instead of the feature's own tokens is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from saesteer.data.contrast import Contrast, Example
from saesteer.errors import DataError
from saesteer.features.activations import TextBatch, text_batches
from saesteer.metrics.outliers import median_norm, norms, outlier_tokens
from saesteer.models import Model, install
from saesteer.saes.sae import SAE

EFFECT_DOSE = 0.1
"""Share of ‖h‖ added: small enough for texts to stay likely, large enough to outrun rounding."""
EFFECT_TEXTS = 24
"""Texts scored per label; more change the order of the best features little and cost time."""


def logit_effects(
    model: Model,
    sae: SAE,
    contrast: Contrast,
    features: Sequence[int],
    *,
    dose: float = EFFECT_DOSE,
    max_texts: int = EFFECT_TEXTS,
    batch_size: int = 8,
) -> list[float]:
    """Effect of adding each feature on mean log p(positive texts) - mean log p(negative texts).

    The feature's unit decoder row is added at dose x ‖h‖ at every position of the SAE's site. The
    first half of each text is context, its second half is scored, in nats per token; every text
    weighs the same. Positive means that the feature favours the positives.

    Raises:
        FeatureError: a feature outside the SAE.
        DataError: no text is long enough to be scored.
    """
    sae.check_features(features)
    examples = [*contrast.positives[:max_texts], *contrast.negatives[:max_texts]]
    batches = list(text_batches(model, examples, batch_size))
    base = _preference(model, examples, batches)
    effects: list[float] = []
    for feature in features:
        direction = F.normalize(sae.w_dec[feature].float(), dim=0)
        handle = install(model.layout.point(sae.site), _Push(direction, dose, batches))
        try:
            effects.append(_preference(model, examples, batches) - base)
        finally:
            handle.remove()
    return effects


class _Push:
    """Adds a direction at a share of each token's norm; outliers get the median's share.

    Batches are met in a known order, which says what is padding: it stays out of the median, and
    being on the right it reaches no token.
    """

    def __init__(self, direction: Tensor, dose: float, batches: Sequence[TextBatch]) -> None:
        self.direction = direction
        self.dose = dose
        self.masks = iter([batch.tokens.attention_mask for batch in batches])

    def __call__(self, resid: Tensor) -> Tensor:
        valid = next(self.masks).to(resid.device)
        median = median_norm(resid, valid)
        lengths = torch.where(outlier_tokens(resid, valid), median, norms(resid))
        direction = self.direction.to(resid.device)
        return resid + (self.dose * lengths.unsqueeze(-1) * direction).to(resid.dtype)


@torch.no_grad()
def _preference(model: Model, examples: Sequence[Example], batches: Sequence[TextBatch]) -> float:
    """Mean over positives less mean over negatives of a text's log-probability per token."""
    sums = {0: 0.0, 1: 0.0}
    counts = {0: 0, 1: 0}
    for batch in batches:
        scored = second_half(batch.own)[:, 1:]
        ids = batch.tokens.input_ids[:, 1:]
        chosen = model.forward(batch.tokens)[:, :-1][scored.to(ids.device)].float()
        ce = F.cross_entropy(chosen, ids[scored.to(ids.device)], reduction="none").cpu()
        per_text = ce.split(scored.sum(-1).tolist())
        for row, losses in zip(batch.rows, per_text, strict=True):
            if len(losses):
                sums[examples[row].label] -= float(losses.double().mean())
                counts[examples[row].label] += 1
    if not all(counts.values()):
        raise DataError("no text of one label is long enough to be scored; give longer texts.")
    return sums[1] / counts[1] - sums[0] / counts[0]


def second_half(own: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """The later half of each row's own tokens, middle one included; never the first position."""
    seen, total = own.cumsum(-1), own.sum(-1, keepdim=True)
    half = own & (seen > total // 2)
    half[:, 0] = False
    return half
