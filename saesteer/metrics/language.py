"""Cross entropy, KL and perplexity per token, in nats, one row at a time.

A row at a time because a vocabulary is large: the log-probabilities of 8 x 256 tokens of 49,152
words are 400 MB, and four passes would hold several of them.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saesteer.axes import Logits, TokenIds, TokenMask
from saesteer.errors import DataError


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


def perplexity(ce: Float[Tensor, " n"]) -> float:
    """exp of the mean cross entropy in nats; infinite where that overflows.

    Raises:
        DataError: no tokens.
    """
    if not ce.numel():
        raise DataError("no tokens to compute a perplexity of; give text of two tokens or more.")
    mean = float(ce.double().mean())
    return math.exp(mean) if mean < 700 else math.inf
