"""How likely a model finds texts, steered or not, with gradients for whatever steers it.

A text is read as it would be generated: edits act from the last prompt token on, so `generated()`
means here what it means in decoding. Texts without a prompt have their first token for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from saesteer.data.contrast import Example
from saesteer.errors import DataError
from saesteer.features.activations import text_ids
from saesteer.models import Model, TokenBatch, pad_rows


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
