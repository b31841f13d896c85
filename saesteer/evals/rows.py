"""Rows of token ids to score a model on: texts cut to a context, none across two texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from saesteer.errors import DataError
from saesteer.models import Model
from saesteer.models.limits import check_context


def token_rows(
    model: Model, texts: Iterable[str], max_tokens: int, context: int
) -> list[list[int]]:
    """Rows of at most `context` ids, none across two texts, `max_tokens` in all without BOS.

    Raises:
        DataError: no row of two tokens, or a context too short to hold one.
        ConfigError: a row is longer than the model has positions.
    """
    bos = bos_of(model)
    if context < len(bos) + 2:
        raise DataError(f"context {context} leaves nothing to predict; give 2 or more.")
    rows: list[list[int]] = []
    left = max_tokens
    for text in [texts] if isinstance(texts, str) else texts:
        ids = list(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        ids = ids[:left]
        left -= len(ids)
        rows.extend(_cut(ids, context - len(bos), bos))
        if left <= 0:
            break
    if not rows:
        raise DataError(
            "the text has no tokens to score: give at least one text of two tokens or more."
        )
    check_context(model, max(map(len, rows)))
    return rows


def _cut(ids: list[int], width: int, bos: list[int]) -> Iterator[list[int]]:
    """Pieces of `width` ids behind BOS; a last piece of one token predicts nothing."""
    for start in range(0, len(ids), width):
        piece = ids[start : start + width]
        if len(piece) > 1:
            yield bos + piece


def bos_of(model: Model) -> list[int]:
    """What the tokenizer puts in front of a text: BOS or nothing."""
    bos = getattr(model.tokenizer, "bos_token_id", None)
    first = list(model.tokenizer("a")["input_ids"])[:1]
    return first if bos is not None and first == [bos] else []
