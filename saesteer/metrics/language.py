"""Cross entropy, KL and perplexity per token, in nats, one row at a time.

A row at a time because a vocabulary is large: the log-probabilities of 8 x 256 tokens of 49,152
words are 400 MB, and four passes would hold several of them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saesteer.axes import Logits, TokenIds, TokenMask
from saesteer.errors import DataError

_FEW, _MANY = 16, 1024
"""Tokens whose probabilities are held at a time: as few as a processor's caches hold, and on other
devices, where calls are what costs, many."""


def token_ce(logits: Logits, ids: TokenIds, mask: TokenMask | TokenIds) -> Float[Tensor, " n"]:
    """Cross entropy of every valid next token, in nats, row by row.

    Position t predicts token t + 1; both must be valid. Returns n = number of such pairs values.
    The mask may be of 0s and 1s, as tokenizers return it.
    """
    rows = []
    for row, row_ids, row_mask in zip(logits, ids, mask.bool(), strict=True):
        valid = row_mask[:-1] & row_mask[1:]
        rows.append(
            functional.cross_entropy(
                row[:-1][valid].float(), row_ids[1:][valid].long(), reduction="none"
            )
        )
    return torch.cat(rows)


def token_kl(logits_p: Logits, logits_q: Logits, mask: TokenMask | TokenIds) -> Float[Tensor, " n"]:
    """KL(p ‖ q) of the next-token distributions at every valid position, in nats, row by row.

    In this library p is the changed model (steered, or with an SAE in place) and q the clean one.
    The mask may be of 0s and 1s, as in `token_ce`.
    """
    rows = []
    for row_p, row_q, row_mask in zip(logits_p, logits_q, mask.bool(), strict=True):
        log_p = row_p[row_mask].float().log_softmax(-1)
        log_q = row_q[row_mask].float().log_softmax(-1)
        rows.append((log_p.exp() * (log_p - log_q)).sum(-1))
    return torch.cat(rows)


def mean_kl(
    clean: Float[Tensor, "*batch vocab"], changed: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, ""]:
    """Mean KL(clean ‖ changed) over all tokens, in nats, to be lowered by training.

    Gradients go to `changed` alone. They are worked out with it, a few tokens at a time, so that
    nothing of the size of a vocabulary is kept beside them or leaves the processor's caches.
    """
    vocab = clean.shape[-1]
    return _MeanKL.apply(clean.reshape(-1, vocab), changed.reshape(-1, vocab))  # pyright: ignore


class _MeanKL(torch.autograd.Function):
    """softmax(changed) - softmax(clean) is the slope in the logits, token by token."""

    @staticmethod
    def forward(ctx: Any, clean: Tensor, changed: Tensor) -> Tensor:
        """The mean, and what `backward` multiplies."""
        slope, total = torch.empty_like(changed), clean.new_zeros((), dtype=torch.float32)
        size = _FEW if clean.is_cpu else _MANY
        chunks = (part.split(size) for part in (clean, changed, slope))
        for a, b, to in zip(*chunks, strict=True):
            log_p, log_q = a.float().log_softmax(-1), b.float().log_softmax(-1)
            p = log_p.exp()
            total += torch.linalg.vecdot(p, log_p.sub_(log_q)).sum()
            to.copy_(log_q.exp_().sub_(p).div_(len(changed)))
        ctx.save_for_backward(slope)
        return total / len(changed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        """To `changed` alone."""
        (slope,) = ctx.saved_tensors
        return None, slope * grads[0].to(slope.dtype)


def perplexity(ce: Float[Tensor, " n"]) -> float:
    """exp of the mean cross entropy in nats; infinite where that overflows.

    Raises:
        DataError: no tokens.
    """
    if not ce.numel():
        raise DataError("no tokens to compute a perplexity of; give text of two tokens or more.")
    mean = float(ce.double().mean())
    return math.exp(mean) if mean < 700 else math.inf
