"""How likely a model finds texts, steered or not, with gradients for whatever steers it.

A text is read as it would be generated: edits act from the last prompt token on, so `generated()`
means here what it means in decoding. Texts without a prompt have their first token for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from saesteer.axes import Rows
from saesteer.data.contrast import Example
from saesteer.errors import DataError
from saesteer.features.activations import TextBatch, kept_tokens, text_ids
from saesteer.models import Model, TokenBatch, install, pad_rows
from saesteer.models.sites import Site


class Texts(NamedTuple):
    """Right-padded texts.

    Attributes:
        prompt_lengths: tokens of each row that are not asked for, at least 1.
        asked: True at the tokens whose likelihood counts, `[rows, pos]`.
    """

    tokens: TokenBatch
    prompt_lengths: list[int]
    asked: Bool[Tensor, "rows pos"]


def teacher_forced(model: Model, examples: Sequence[Example]) -> Texts:
    """A batch of texts, in the order given.

    Raises:
        DataError: a text without tokens, one that is longer than the model can read, or one of a
            single token and no prompt, of which nothing can be asked.
    """
    found = [text_ids(model, example, row) for row, example in enumerate(examples)]
    lengths = [max(n_prefix, 1) for _, n_prefix in found]
    for row, ((ids, _), length) in enumerate(zip(found, lengths, strict=True)):
        if len(ids) <= length:
            raise DataError(
                f"text {row} ({examples[row].text[:40]!r}) is a single token without a prompt; "
                "give a longer text, or a prompt."
            )
    tokens = pad_rows([ids for ids, _ in found], model.pad_id, side="right")
    asked = tokens.attention_mask.clone()
    for row, length in enumerate(lengths):
        asked[row, :length] = False
    return Texts(tokens.to(model.device), lengths, asked.to(model.device))


def log_likelihood(model: Model, texts: Texts) -> Float[Tensor, " rows"]:
    """Mean log probability of each row's asked tokens, in nats a token.

    The total is this times `n_asked(texts)`.
    """
    logits = model.forward(texts.tokens)
    places = texts.asked[:, 1:].to(logits.device)
    wanted = texts.tokens.input_ids[:, 1:].to(logits.device)[places]
    each = -functional.cross_entropy(logits[:, :-1][places].float(), wanted, reduction="none")
    total = each.new_zeros(places.shape).masked_scatter(places, each).sum(-1)
    return total / n_asked(texts).to(total.device)


def n_asked(texts: Texts) -> Float[Tensor, " rows"]:
    """Tokens asked for, of each row."""
    return texts.asked.sum(-1).float()


def text_means(model: Model, batch: TextBatch, sites: Sequence[Site]) -> list[Rows]:
    """Each text's mean activation at each site, with gradients, behind whatever is attached.

    Outlier tokens are left out, unless a text has no others.
    """
    found: dict[Site, Tensor] = {}

    def keep(site: Site, resid: Tensor) -> None:
        kept = kept_tokens(resid.detach(), batch)
        kept = torch.where(kept.any(-1, keepdim=True), kept, batch.own).to(resid.device)
        total = torch.where(kept[..., None], resid.float(), 0.0).sum(1)
        found[site] = total / kept.sum(-1, keepdim=True)

    with ExitStack() as hooks:
        for site in sites:
            handle = install(model.layout.point(site), partial(keep, site))
            hooks.callback(handle.remove)
        model.forward(batch.tokens, base_only=True)
    return [found[site] for site in sites]
