"""Which features, at which positions, speak for a chosen next token.

The SAE stands in with its error node kept, h = decode(z) + error, so the model computes exactly
what it computes without it. The decoder is linear: the gradient of the logit by latent f is
g·W_dec[f] with g the gradient by h, and no SAE has to run inside the graph. Attribution = latent x
gradient, the first-order estimate of what ablating the latent would take from the logit.
Source: Marks et al. 2024, Sparse Feature Circuits (2403.19647).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saesteer.errors import DataError
from saesteer.features.lens import token_text
from saesteer.metrics.outliers import outlier_tokens
from saesteer.models import Model, Prompt, TokenBatch, as_model, as_prompts, install, record
from saesteer.models.limits import check_count, check_prompt
from saesteer.saes.load import check_width
from saesteer.saes.sae import SAE


@dataclass(frozen=True)
class Attribution:
    """One feature at one position, and its part in the token's logit.

    Attributes:
        position: counted from the prompt's first token; `token` is the text there.
        attribution: latent x gradient, in logits.
        ablation: the logit with the feature minus the logit without it, where it was measured.
    """

    feature: int
    position: int
    token: str
    activation: float
    attribution: float
    ablation: float | None = None


@dataclass(frozen=True)
class TokenAttribution:
    """A next token, its logit and probability, and what spoke for or against it, largest first.

    Attributes:
        last: how many of the prompt's last positions were looked at; None for all.
    """

    token: str
    token_id: int
    logit: float
    probability: float
    last: int | None
    parts: tuple[Attribution, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def attribute_token(
    model: Model | nn.Module,
    sae: SAE,
    prompt: Prompt,
    token: str | int | None = None,
    *,
    top: int = 20,
    last: int | None = None,
    ablations: int = 0,
) -> TokenAttribution:
    """Attribute the logit of one next token to features at the prompt's positions.

    Args:
        prompt: a text or a chat.
        token: the token to explain, as its text or its id; the model's own choice by default.
        last: how many positions count, from the prompt's end; None for all. Outlier tokens are out.
        ablations: measure this many of the largest by ablating each alone, one pass each.

    Raises:
        ConfigError: `top` or `last` below 1, or fewer than 0 ablations.
        DataError: several prompts, or one without tokens or with more than the model can read, or
            the token is not one token of this model.
        DimensionError: model and SAE have different widths.
    """
    check_count("top", top)
    check_count("ablations", ablations, 0)
    if last is not None:
        check_count("last", last)
    model = as_model(model)
    check_width(sae, model)
    batch = model.tokenize(_one_prompt(prompt))
    check_prompt(model, batch.input_ids.shape[1])
    latents = _latents(model, sae, batch)
    asked = _token_id(model, token)
    logits, grad = _logits_and_gradient(model, sae, batch, asked)
    target = int(logits.argmax()) if asked is None else asked
    values = latents * (grad.to(sae.dtype) @ sae.w_dec.T).float().cpu()
    if last is not None:
        values[: max(len(values) - last, 0)] = 0
    logit, chance = float(logits[target]), float(logits.softmax(-1)[target])
    parts: list[Attribution] = []
    for position, feature in _largest(values, top):
        node = (feature, position, float(latents[position, feature]))
        measured = len(parts) < ablations
        drop = logit - _ablated(model, sae, batch, node, target) if measured else None
        word = token_text(model, int(batch.input_ids[0, position]))
        parts.append(Attribution(*node[:2], word, node[2], float(values[position, feature]), drop))
    return TokenAttribution(token_text(model, target), target, logit, chance, last, tuple(parts))


def _one_prompt(given: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """The prompt, as a list of it alone.

    Raises:
        DataError: several, or none.
    """
    prompts = as_prompts(given)
    if len(prompts) != 1:
        raise DataError(f"attribute_token explains one prompt at a time, got {len(prompts)}.")
    return prompts


def _largest(values: Float[Tensor, "pos d_sae"], top: int) -> list[tuple[int, int]]:
    """Position and feature of the `top` largest, those of 0 left out."""
    nodes = values.nonzero()  # few of all: sorting those alone is 20 times faster
    order = values[values != 0].abs().argsort(descending=True, stable=True)[:top]
    return [(position, feature) for position, feature in nodes[order].tolist()]


def _token_id(model: Model, token: str | int | None) -> int | None:
    """The id of a token given as text or id.

    Raises:
        DataError: the text is not one token, or the id lies outside the vocabulary.
    """
    if isinstance(token, str):
        ids = list(model.tokenizer(token, add_special_tokens=False)["input_ids"])
        if len(ids) != 1:
            pieces = [token_text(model, i) for i in ids]
            raise DataError(f"{token!r} is {len(ids)} tokens, {pieces}; choose a single one.")
        return int(ids[0])
    unembed = model.layout.unembed.weight
    assert isinstance(unembed, Tensor)
    if token is not None and not 0 <= token < len(unembed):
        raise DataError(f"token id {token} does not exist; the model has 0-{len(unembed) - 1}.")
    return token


@torch.no_grad()
def _latents(model: Model, sae: SAE, batch: TokenBatch) -> Float[Tensor, "pos d_sae"]:
    """Latents of a single row on the CPU; none at outlier tokens, which no SAE stands in for."""
    resid = record(model, batch, [sae.site])[sae.site]
    latents = sae.encode(resid[0].to(sae.device)).float().cpu()
    return latents * ~outlier_tokens(resid)[0].cpu().unsqueeze(-1)


def _logits_and_gradient(
    model: Model, sae: SAE, batch: TokenBatch, target: int | None
) -> tuple[Float[Tensor, " vocab"], Float[Tensor, "pos d_model"]]:
    """Next-token logits of one row, and the gradient of one (the largest) at the SAE's site."""
    leaves: list[Tensor] = []

    def cut(resid: Tensor) -> Tensor:
        leaves.append(resid.detach().requires_grad_())
        return leaves[0].clone()

    handle = install(model.layout.point(sae.site), cut)
    try:
        with torch.enable_grad():
            logits = model.forward(batch, last=1)[0, -1].float()
            chosen = logits.max() if target is None else logits[target]
            (grad,) = torch.autograd.grad(chosen, leaves)
    finally:
        handle.remove()
    return logits.detach().cpu(), grad[0].to(sae.device)


@torch.no_grad()
def _ablated(
    model: Model, sae: SAE, batch: TokenBatch, node: tuple[int, int, float], target: int
) -> float:
    """The logit of `target` with one feature at one position set to zero, the error node kept."""
    feature, position, activation = node

    def ablate(resid: Tensor) -> Tensor:
        resid = resid.clone()
        resid[0, position] -= (activation * sae.w_dec[feature]).to(resid)
        return resid

    handle = install(model.layout.point(sae.site), ablate)
    try:
        return float(model.forward(batch, last=1)[0, -1, target])
    finally:
        handle.remove()
