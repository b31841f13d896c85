"""Activations of texts, token by token: the text's own tokens and no others.

A prompt is read by the model but not returned; neither are padding, BOS and other special tokens.
Prompt and text are tokenized apart and joined as ids, so the border falls on the same token
whatever the text is, as it does in generation; a line break parts them where neither has a space.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saesteer.data.contrast import Example
from saesteer.errors import ConfigError, DataError
from saesteer.metrics.outliers import outlier_tokens
from saesteer.models import Model, Site, TokenBatch, as_model, pad_rows, record
from saesteer.models.limits import check_count, check_length, finite_rows

Pool = Literal["mean", "max", "last", "rate"]
"""How a text's tokens become one row: their mean, each coordinate's maximum, the last one, or the
share of them at which each coordinate is above zero."""


Examples = Example | str | Sequence[Example | str]
"""One text, or several."""


@dataclass(frozen=True)
class TextBatch:
    """A padded batch of texts: the rows of the input they are, and which tokens are the texts'."""

    rows: tuple[int, ...]
    tokens: TokenBatch
    own: Bool[Tensor, "batch pos"]


def read_activations(
    model: Model | nn.Module,
    examples: Examples,
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
        ConfigError: `batch_size` below 1.
        SiteError: the model has no such site.
        DataError: no text, or one without tokens or longer than the model can read; or NaN comes
            back.
    """
    model = as_model(model)
    place = model.check_site(site)
    examples = as_examples(examples)
    found: dict[int, Tensor] = {}
    for batch in text_batches(model, examples, batch_size):
        resid = record(model, batch.tokens, [place])[place]
        keep = kept_tokens(resid, batch) if drop_outliers else batch.own
        for row, rows_resid, kept in zip(batch.rows, resid.float().cpu(), keep, strict=True):
            found[row] = finite_rows(rows_resid[kept], model, place)
    return [found[row] for row in range(len(examples))]


def pooled_activations(
    model: Model | nn.Module,
    examples: Examples,
    sites: Sequence[Site | str],
    pool: Pool = "mean",
    batch_size: int = 16,
    *,
    n_last: int | None = None,
) -> dict[Site, Float[Tensor, "examples width"]]:
    """One row per example and site, in fp32 on the CPU: the text's own tokens, pooled.

    All sites are read in one pass and pooled as they arrive, so memory grows with examples x width
    and not with tokens. Outlier tokens are left out, unless a text has no others.

    Args:
        n_last: pool over this many of a text's last tokens only, or all it has if it has fewer.

    Raises:
        ConfigError: no such pool, or `n_last` or `batch_size` below 1.
        SiteError: the model has no such site.
        DataError: no text, or one without tokens or longer than the model can read; or NaN comes
            back.
    """
    check_pool(pool)
    if n_last is not None:
        check_count("n_last", n_last)
    model = as_model(model)
    places = [model.check_site(site) for site in sites]
    examples = as_examples(examples)
    found = {place: torch.empty(len(examples), model.layout.width(place)) for place in places}
    for batch in text_batches(model, examples, batch_size):
        keep = partial(pooled, batch=batch, pool=pool, n_last=n_last)
        rows = record(model, batch.tokens, places, keep)
        for place in found:
            found[place][list(batch.rows)] = finite_rows(rows[place], model, place)
    return found


def pooled(
    resid: Float[Tensor, "batch pos width"],
    batch: TextBatch,
    pool: Pool,
    n_last: int | None = None,
) -> Float[Tensor, "batch width"]:
    """One row a text of the batch, in its order, as `pooled_activations` makes them; on the CPU."""
    kept = kept_tokens(resid, batch)
    kept = torch.where(kept.any(-1, keepdim=True), kept, batch.own).to(resid.device)
    if n_last is not None:
        kept &= kept.flip(-1).cumsum(-1).flip(-1) <= n_last
    match pool:
        case "mean" | "rate":
            values = resid.float() if pool == "mean" else (resid > 0).float()
            total = torch.where(kept[..., None], values, 0.0).sum(1)
            return (total / kept.sum(-1, keepdim=True)).cpu()
        case "max":
            lowest = torch.finfo(torch.float32).min
            return torch.where(kept[..., None], resid.float(), lowest).amax(1).cpu()
        case "last":
            at = (kept * torch.arange(1, kept.shape[1] + 1, device=kept.device)).argmax(-1)
            return resid[torch.arange(len(resid), device=at.device), at].float().cpu()


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
        ConfigError: `batch_size` below 1.
        DataError: a text without tokens, or longer than the model can read.
    """
    check_count("batch_size", batch_size)
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


def as_examples(examples: Any) -> list[Example | str]:
    """One text or many, as a list.

    Raises:
        DataError: something else than `Examples`, such as a chat.
    """
    several = isinstance(examples, Iterable) and not isinstance(examples, str | bytes | Mapping)
    found: list[Any] = list(examples) if several else [examples]
    for given in found:
        if not isinstance(given, Example | str):
            raise DataError(
                f"{repr(given)[:60]} is no text: give a text or an Example, or a list of them."
            )
    return found


def check_pool(pool: str) -> None:
    """Refuse a way of pooling that doesn't exist.

    Raises:
        ConfigError: naming those that do.
    """
    if pool not in get_args(Pool):
        raise ConfigError(f"pool {pool!r} does not exist; expected {', '.join(get_args(Pool))}.")


def prefix_ids(model: Model, prompt: str = "") -> list[int]:
    """Ids that come before a text: the tokenizer's BOS, if it sets one, and the prompt's.

    A prompt that a chat template wrote has all that it is meant to have.
    """
    whole = _is_rendered(model, prompt)
    return list(model.need_tokenizer()(prompt, add_special_tokens=not whole)["input_ids"])


def _is_rendered(model: Model, prompt: str) -> bool:
    """Whether a chat template wrote a prompt: it holds special tokens."""
    if not prompt:
        return False
    special = model.need_tokenizer().convert_ids_to_tokens(model.special_ids.tolist())
    return any(token in prompt for token in special)


def text_ids(model: Model, example: Example | str, row: int = 0) -> tuple[list[int], int]:
    """All ids of one example, and how many of them come before its text; `row` is for messages.

    Raises:
        DataError: a text without tokens, or longer than the model can read.
    """
    text, prompt = (example, None) if isinstance(example, str) else (example.text, example.prompt)
    apart = not prompt or prompt[-1].isspace() or text[:1].isspace() or _is_rendered(model, prompt)
    prompt = prompt if apart else f"{prompt}\n"
    prefix = prefix_ids(model, prompt or "")
    ids = list(model.need_tokenizer()(text, add_special_tokens=False)["input_ids"])
    if not set(ids) - set(model.special_ids.tolist()):
        raise DataError(f"text {row} ({text[:40]!r}) has no tokens; give at least one word.")
    n = len(prefix) + len(ids)
    what = f"text {row} ({text[:40]!r}) has {n} tokens with its prompt"
    check_length(model, n, what, "Cut it into shorter texts.")
    return prefix + ids, len(prefix)
