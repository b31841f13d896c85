"""Which tokens of a prompt spell a given text.

The whole prompt is searched, not what one pass contains, so a span that lies across two chunks is
found, and cached passes agree with uncached ones.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from saesteer.axes import TokenMask
from saesteer.errors import PlanError
from saesteer.steer.frame import Frame

Decode = Callable[[Sequence[int]], str]
Find = Callable[[Sequence[int]], list[tuple[int, int]]]


def span_mask(frame: Frame, text: str, nth: int | None = None) -> TokenMask:
    """True at this pass's positions that belong to a span of `text`, `[batch, pos]`.

    Args:
        nth: only this one of a row's spans, from 0.

    Raises:
        PlanError: no tokenizer, or the prompt's tokens are not known.
    """
    decode = frame.decode
    if decode is None:
        raise PlanError("spans need a tokenizer; load the model with one.")

    def find(ids: Sequence[int]) -> list[tuple[int, int]]:
        ranges = token_spans(ids, text, decode)
        return ranges if nth is None else ranges[nth : nth + 1]

    return found_mask(frame, ("span", text, nth), f"spans({text!r})", find)


def found_mask(frame: Frame, key: object, who: str, find: Find) -> TokenMask:
    """True at this pass's positions that lie in a range that `find` gives for the prompt's ids.

    Args:
        key: under which the call remembers what was found.

    Raises:
        PlanError: the prompt's tokens are not known.
    """
    found = _found(frame, key, who, find).to(frame.logical.device)
    at = frame.logical.clamp(max=found.shape[1] - 1)
    inside = frame.logical < found.shape[1]
    return found.gather(1, at) & inside


def _found(frame: Frame, key: object, who: str, find: Find) -> Tensor:
    """Hits by logical position, `[batch, longest prompt]`."""
    prompt, batch = frame.prompt, len(frame.valid)
    if prompt is not None and prompt.input_ids is not None:
        hits = prompt.memo.get(key)
        if hits is None:
            hits = prompt.memo[key] = _search(prompt.input_ids, prompt.mask, find)
        return prompt.per_row(hits, batch)
    if frame.input_ids is None:
        raise PlanError(f"{who} needs tokens, but this pass was given embeddings; pass input_ids.")
    if not frame.first_pass:
        raise PlanError(
            f"{who} needs the whole prompt, but this pass continues a cache; "
            "pass the full prompt to generate."
        )
    mask = frame.valid
    if frame.prompt_lengths is not None:
        mask = mask & (frame.logical < frame.prompt_lengths[:, None])
    return _search(frame.input_ids, mask, find)


def _search(ids: Tensor, mask: Tensor | None, find: Find) -> Tensor:
    keep = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    rows = [row[real].tolist() for row, real in zip(ids.cpu(), keep.cpu(), strict=True)]
    hits = torch.zeros(len(rows), max(1, *(len(row) for row in rows)), dtype=torch.bool)
    for index, row in enumerate(rows):
        for start, stop in find(row):
            hits[index, start:stop] = True
    return hits


def token_spans(ids: Sequence[int], text: str, decode: Decode) -> list[tuple[int, int]]:
    """Half-open token ranges whose decoded text overlaps an occurrence of `text`."""
    whole, ranges = decode(ids), []
    at = whole.find(text)
    while at >= 0:
        ranges.append((at, at + len(text)))
        at = whole.find(text, at + 1)
    return tokens_of(ids, ranges, decode)


def tokens_of(
    ids: Sequence[int], ranges: Sequence[tuple[int, int]], decode: Decode
) -> list[tuple[int, int]]:
    """Half-open token ranges that overlap half-open ranges of characters of the decoded text."""
    ends = _Ends(ids, decode)
    spans = []
    for start, stop in ranges:
        first = bisect_right(ends, start)  # the first token that ends after the range begins
        last = bisect_left(ends, stop)  # the first that ends at or after its end
        spans.append((first, min(last + 1, len(ids))))
    return spans


class _Ends(Sequence[int]):
    """Where each token's text ends, decoded on demand, so that a search costs log n decodes."""

    def __init__(self, ids: Sequence[int], decode: Decode) -> None:
        self._ids, self._decode = ids, decode

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> int:  # type: ignore[override]
        return len(self._decode(self._ids[: index + 1]))
