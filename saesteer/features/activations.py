"""Activations of texts, token by token: the text's own tokens and no others.

A prompt is read by the model but not returned; neither are padding, BOS and other special tokens.
Prompt and text are tokenized apart and joined as ids, so the border falls on the same token
whatever the text is, as it does in generation; a line break parts them where neither has a space.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saesteer.data.contrast import Example
from saesteer.errors import DataError
from saesteer.metrics.outliers import outlier_tokens
from saesteer.models import Model, Site, TokenBatch, as_model, pad_rows, record


@dataclass(frozen=True)
class TextBatch:
    """A padded batch of texts: the rows of the input they are, and which tokens are the texts'."""

    rows: tuple[int, ...]
    tokens: TokenBatch
    own: Bool[Tensor, "batch pos"]


def read_activations(
    model: Model | nn.Module,
    examples: Sequence[Example | str],
    site: Site | str,
    batch_size: int = 16,
    *,
    drop_outliers: bool = False,
) -> list[Float[Tensor, "n_tokens width"]]:
    """Activations of each example's text at `site`, in fp32 on the CPU, in the order given.

    Texts run sorted by length, so a batch holds little padding.

    Args:
        drop_outliers: leave out tokens whose norm exceeds 4 x the batch's median; a text made of
            nothing else comes back with no rows.

    Raises:
        SiteError: the model has no such site.
        DataError: a text without tokens, or longer than the model can read.
    """
    model = as_model(model)
    place = model.check_site(site)
    found: dict[int, Tensor] = {}
    for batch in text_batches(model, examples, batch_size):
        resid = record(model, batch.tokens, [place])[place]
        keep = kept_tokens(resid, batch) if drop_outliers else batch.own
        for row, rows_resid, kept in zip(batch.rows, resid.float().cpu(), keep, strict=True):
            found[row] = rows_resid[kept]
    return [found[row] for row in range(len(examples))]


def kept_tokens(
    resid: Float[Tensor, "batch pos width"], batch: TextBatch
) -> Bool[Tensor, "batch pos"]:
    """The text's tokens without outliers (the median is over all valid tokens), on the CPU."""
    valid = batch.tokens.attention_mask.to(resid.device)
    return batch.own & ~outlier_tokens(resid, valid).cpu()


def text_batches(
    model: Model, examples: Sequence[Example | str], batch_size: int = 16
) -> Iterator[TextBatch]:
    """Batches of similar length, longest first so that memory runs out at once or not at all.

    Raises:
        DataError: a text without tokens, or longer than the model can read.
    """
    rows = [text_ids(model, example, row) for row, example in enumerate(examples)]
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row][0]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        tokens = pad_rows([rows[row][0] for row in chosen], model.pad_id, side="right")
        own = torch.zeros_like(tokens.attention_mask)
        for line, row in enumerate(chosen):
            ids, n_prefix = rows[row]
            own[line, n_prefix : len(ids)] = True
        own &= ~torch.isin(tokens.input_ids, model.special_ids)
        yield TextBatch(tuple(chosen), tokens.to(model.device), own)


def context_length(model: Model) -> int | None:
    """Most tokens that the model's positions allow, or None where it states no limit."""
    return getattr(model.hf.config.get_text_config(), "max_position_embeddings", None)


def prefix_ids(model: Model, prompt: str = "") -> list[int]:
    """Ids that come before a text: the tokenizer's BOS, if it sets one, and the prompt's.

    A prompt that opens with BOS already, as chat templates write it, gets no second one.
    """
    bos = getattr(model.tokenizer, "bos_token", None)
    has_bos = bool(bos) and prompt.startswith(str(bos))
    return list(model.tokenizer(prompt, add_special_tokens=not has_bos)["input_ids"])


def text_ids(model: Model, example: Example | str, row: int = 0) -> tuple[list[int], int]:
    """All ids of one example, and how many of them come before its text; `row` is for messages.

    Raises:
        DataError: a text without tokens, or longer than the model can read.
    """
    text, prompt = (example, None) if isinstance(example, str) else (example.text, example.prompt)
    if prompt and not prompt[-1].isspace() and not text[:1].isspace():
        prompt += "\n"
    prefix = prefix_ids(model, prompt or "")
    ids = list(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    limit = context_length(model)
    if not set(ids) - set(model.special_ids.tolist()):
        raise DataError(f"text {row} ({text[:40]!r}) has no tokens; give at least one word.")
    if limit is not None and len(prefix) + len(ids) > limit:
        raise DataError(
            f"text {row} ({text[:40]!r}) has {len(prefix) + len(ids)} tokens with its prompt; "
            f"{model.name} reads at most {limit}. Cut it into shorter texts."
        )
    return prefix + ids, len(prefix)
