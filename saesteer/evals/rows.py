"""Rows of token ids to score a model on: texts cut to a context, none across two texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from saesteer.data.text import Part, Texts
from saesteer.data.turns import pieces_in_turn
from saesteer.errors import DataError
from saesteer.models import Model
from saesteer.models.limits import check_context, check_count


def token_rows(
    model: Model, texts: Iterable[str], max_tokens: int, context: int
) -> list[list[int]]:
    """Rows of at most `context` ids, none across two texts, `max_tokens` in all without BOS.

    Raises:
        DataError, ModelError, ConfigError: as `rows_by_path`.
    """
    return [
        row for rows in rows_by_path(model, texts, max_tokens, context).values() for row in rows
    ]


def rows_by_path(
    model: Model, texts: Iterable[str], max_tokens: int, context: int
) -> dict[str, list[list[int]]]:
    """The rows of each path that `texts` are of, file after file; those of none are under "".

    Paths of `iterate_texts` share `max_tokens` in equal parts, and so do the files of a path; what
    one that ends early leaves falls to the others.

    Raises:
        DataError: no row of two tokens, or a context too short to hold one.
        ModelError: the model has no tokenizer.
        ConfigError: `max_tokens` below 1, or a row is longer than the model has positions.
    """
    check_count("max_tokens", max_tokens)
    tokenizer, bos = model.need_tokenizer(), bos_of(model)
    width = context - len(bos)
    if width < 2:
        raise DataError(f"context {context} leaves nothing to predict; give 2 or more.")

    def cut(text: str) -> Iterator[list[int]]:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        ids = list(ids[:max_tokens])
        return (ids[start : start + width] for start in range(0, len(ids), width))

    found: dict[Part, list[list[int]]] = defaultdict(list)
    left = max_tokens
    for piece in pieces_in_turn(texts, cut):
        if len(ids := piece.ids[:left]) > 1:  # one token predicts nothing
            found[piece.part].append(bos + ids)
        left -= len(ids)
        if left <= 0:
            break
    if not found:
        raise DataError(
            "the text has no tokens to score: give at least one text of two tokens or more."
        )
    check_context(model, max(len(row) for rows in found.values() for row in rows))
    by_path = {path: [] for path in texts.paths} if isinstance(texts, Texts) else {}
    for part in sorted(found):
        by_path.setdefault(part.path, []).extend(found[part])
    return by_path


def bos_of(model: Model) -> list[int]:
    """What the tokenizer puts in front of a text: BOS or nothing.

    Raises:
        ModelError: the model has no tokenizer.
    """
    tokenizer = model.need_tokenizer()
    bos = getattr(tokenizer, "bos_token_id", None)
    first = list(tokenizer("a")["input_ids"])[:1]
    return first if bos is not None and first == [bos] else []
