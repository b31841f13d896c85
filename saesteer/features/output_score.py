"""How clearly a feature, pushed hard for one step, says its own tokens: its output score.

A neutral prompt is read once per feature; at its last position the feature's latent is raised by
`AMPLIFY` times the largest latent there, the SAE's error kept. With T the `LENS_TOKENS` tokens that
the feature promotes most by the logit lens, p the probabilities and r the ranks (0 is the
likeliest) of the pushed next-token distribution over V tokens:

    score = (1 − min_T r / V) · max_T p        in 0 to 1

A high score means that the feature speaks; what it says is for the concept's side to choose.
Source: Arad et al. 2025, SAEs Are Good for Steering, If You Select the Right Features (2505.20063),
and their code, from which the prompt, both constants and the product are taken.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saesteer.axes import Rows
from saesteer.features.lens import lens_weights
from saesteer.models import Model, TokenBatch, as_model, install, record
from saesteer.models.limits import check_count
from saesteer.saes.checks import Features
from saesteer.saes.load import check_width
from saesteer.saes.sae import SAE

AMPLIFY = 10.0
"""Times the largest latent at the prompt's last token; the authors' factor."""
LENS_TOKENS = 20
"""Tokens by which a feature is known."""
NEUTRAL_PROMPT = "From my experience,"


@torch.no_grad()
def output_scores(
    model: Model | nn.Module,
    sae: SAE,
    features: Features,
    *,
    prompt: str = NEUTRAL_PROMPT,
    amplify: float = AMPLIFY,
    batch_size: int = 16,
) -> list[float]:
    """The output score of each feature, 0 to 1; one row of a forward pass each.

    Raises:
        ConfigError: `batch_size` below 1.
        SaeError, DimensionError: no SAE, or one of another width.
        FeatureError: a feature outside the SAE.
        DataError: a prompt without tokens.
    """
    check_count("batch_size", batch_size)
    model = as_model(model)
    check_width(sae, model)
    chosen = list(sae.check_features(features))
    batch = model.tokenize(prompt)
    resid = record(model, batch, [sae.site])[sae.site][0, -1]
    push = amplify * float(sae.encode(resid.to(sae.device)).max())
    rows = sae.w_dec[chosen].float()
    promoted = lens_weights(model, rows).topk(LENS_TOKENS, dim=-1).indices
    scores: list[Tensor] = []
    for start in range(0, len(chosen), batch_size):
        part = slice(start, start + batch_size)
        logits = _pushed_logits(model, batch, sae, push * rows[part])
        scores.append(score_of(logits, promoted[part].to(logits.device)))
    return torch.cat(scores).tolist() if scores else []


def score_of(logits: Float[Tensor, "n vocab"], tokens: Int[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """(1 − best rank / vocabulary) · best probability of each row's own tokens, on the CPU."""
    logits = logits.float()
    best = logits.gather(-1, tokens).amax(-1, keepdim=True)
    rank = (logits > best).sum(-1)
    probability = (best[:, 0] - logits.logsumexp(-1)).exp()
    return ((1 - rank / logits.shape[-1]) * probability).cpu()


def _pushed_logits(
    model: Model, batch: TokenBatch, sae: SAE, changes: Rows
) -> Float[Tensor, "n vocab"]:
    """Next-token logits of one prompt, with each of `changes` added at its last token in turn."""
    n = len(changes)
    several = TokenBatch(batch.input_ids.expand(n, -1), batch.attention_mask.expand(n, -1))

    def push(resid: Tensor) -> Tensor:
        resid = resid.clone()
        resid[:, -1] += changes.to(resid)
        return resid

    handle = install(model.layout.point(sae.site), push)
    try:
        return model.forward(several, last=1)[:, -1]
    finally:
        handle.remove()
