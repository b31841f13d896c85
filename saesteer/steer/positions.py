"""Which positions of a pass are real tokens, and how many come before each in its row.

Asked once per pass, on top of a decoding step of a few hundred small operations, so the frequent
case, one new token behind a mask that is all ones or padded, is answered in as few as it can, and
what mostly nobody asks for is made only when somebody does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, final

import torch
from torch import Tensor

from saesteer.errors import PlanError

FEW = 64
"""Rows whose newest column it pays to look at on the host."""


@final
class Places:
    """The positions of a pass.

    Attributes:
        shape: `(batch, n)`.
        valid: True at real tokens, `[batch, n]`.
        whole: it is known that all are, without asking a device.
    """

    __slots__ = ("_count", "_logical", "_none", "_start", "shape", "valid", "whole")

    def __init__(self, valid: Tensor, count: Callable[[], Tensor], *, whole: bool) -> None:
        self.shape, self.valid, self.whole = valid.shape, valid, whole
        self._count: Callable[[], Tensor] | None = count
        self._start = 0
        self._logical: Tensor | None = None
        self._none: Tensor | None = None

    @property
    def logical(self) -> Tensor:
        """Index among the row's real tokens, `[batch, n]`; meaningless at padding."""
        if self._logical is None:
            device = self.valid.device
            count = self._count or partial(_columns, self._start, *self.shape, device)
            self._logical = count()
        return self._logical

    def goes_on(self, ids: Tensor) -> bool:
        """Whether these ids may be one more token in each of the rows."""
        return ids.shape == (self.shape[0], 1) and ids.device == self.valid.device

    def next(
        self, kwargs: Mapping[str, Any], start: int, pads: Callable[[int, torch.device], Tensor]
    ) -> Places:
        """Where a pass over that token stands, at column `start`; errors as for `positions`.

        Args:
            pads: makes the padding of each row, as `positions` takes it.
        """
        if kwargs.get("attention_mask") is not None or not self.whole or self.shape[1] > 1:
            rows, device = self.shape[0], self.valid.device
            return positions(kwargs, rows, 1, start, device, pads(rows, device))
        other = object.__new__(Places)  # as one more step of the same, for next to nothing
        other.shape, other.valid, other.whole = self.shape, self.valid, True
        other._count, other._start = None, start
        other._logical = other._none = None
        return other

    @property
    def none(self) -> Tensor:
        """False everywhere, `[batch, n]`; the same tensor whoever asks, so that `is` knows it."""
        if self._none is None:
            self._none = _nowhere(*self.shape, self.valid.device)
        return self._none


def positions(
    kwargs: Mapping[str, Any],
    batch: int,
    n: int,
    start: int,
    device: torch.device,
    pads: Tensor | None = None,
) -> Places:
    """Where a pass over `n` columns from `start` stands in each of its rows.

    Args:
        pads: columns of padding in each row `[batch]`, where the pass is one of `generate` behind
            the prompts: from there on every column is real but those that the mask says are not.

    Raises:
        PlanError: packed rows, or a mask that can't be read or does not cover the text.
    """
    given = kwargs.get("position_ids")
    given = given if isinstance(given, Tensor) and given.ndim == 2 else None
    mask = full_mask(kwargs.get("attention_mask"))
    if mask is None:
        valid = _everywhere(batch, n, device)
        places = Places(valid, lambda: _columns(start, batch, n, device), whole=True)
    elif pads is not None and _is_answer(mask, batch, start, n):
        valid = _everywhere(batch, n, device)
        places = Places(valid, lambda: (start - pads)[:, None], whole=True)
    else:
        places = _masked(mask.to(device), given, batch, start, n)
    if given is not None and n > 1:
        _refuse_packed(given.to(device).expand(batch, n), places.valid)
    return places


def _is_answer(mask: Tensor, batch: int, start: int, n: int) -> bool:
    """Whether a padding mask on the host says that the pass is one real token in each row."""
    if n > 1 or not mask.is_cpu or mask.ndim != 2 or len(mask) != batch or batch > FEW:
        return False
    newest = mask[:, start : start + 1].tolist()
    return len(newest[0]) == 1 and min(newest)[0] > 0


def _masked(mask: Tensor, given: Tensor | None, batch: int, start: int, n: int) -> Places:
    if mask.ndim == 2:
        valid, logical = _from_padding_mask(mask, n, start + n)
    else:
        columns = _columns(start, 1, n, mask.device)
        valid, logical = _from_attention_mask(mask, columns, start + n, given)
    if len(valid) not in (1, batch):
        raise PlanError(f"the attention mask has {len(valid)} rows, expected the pass's {batch}.")
    whole = valid.is_cpu and bool(valid.all())
    # a trace keeps it: no view of a mask of all columns
    valid = _everywhere(batch, n, valid.device) if whole else valid.clone().expand(batch, n)
    return Places(valid, lambda: logical.expand(batch, n), whole=whole)


@lru_cache(maxsize=8)
def _everywhere(batch: int, n: int, device: torch.device) -> Tensor:
    """True at every position, the same tensor for each caller; nobody writes into it."""
    return torch.ones(batch, n, dtype=torch.bool, device=device)


@lru_cache(maxsize=8)
def _nowhere(batch: int, n: int, device: torch.device) -> Tensor:
    """False at every position, the same tensor for each caller; nobody writes into it."""
    return torch.zeros(batch, n, dtype=torch.bool, device=device)


def _columns(start: int, batch: int, n: int, device: torch.device) -> Tensor:
    """Physical columns of a pass, `[batch, n]`."""
    if n == 1:
        return torch.full((batch, 1), start, device=device)
    return torch.arange(start, start + n, device=device).expand(batch, n)


def full_mask(mask: Any) -> Tensor | None:
    """The mask over the whole text; a static cache may pass one per kind of layer."""
    if isinstance(mask, Mapping):
        mask = mask["full_attention"] if "full_attention" in mask else next(iter(mask.values()))
    if mask is None or isinstance(mask, Tensor):
        return mask
    raise PlanError(
        f"an attention mask of type {type(mask).__name__} can't be read; "
        "load the model with attn_implementation='sdpa' or 'eager'."
    )


def _from_padding_mask(mask: Tensor, n: int, stop: int) -> tuple[Tensor, Tensor]:
    if mask.shape[1] < stop:
        raise PlanError(
            f"the attention mask covers {mask.shape[1]} columns but the text has {stop}; "
            "with a cache, pass a mask over all columns, cached ones included."
        )
    real = mask > 0 if mask.shape[1] == stop else mask[:, :stop] > 0
    valid = real[:, stop - n :]
    if n == 1:
        counted = real.sum(-1, keepdim=True)
    else:
        counted = valid.cumsum(-1) + real[:, : stop - n].sum(-1, keepdim=True)
    return valid, counted.sub_(1).clamp_(min=0)


def _from_attention_mask(
    mask: Tensor, columns: Tensor, stop: int, given: Tensor | None
) -> tuple[Tensor, Tensor]:
    """From a mask `[batch, 1, query, key]`, boolean or additive: a real token sees itself."""
    allowed = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] == 0
    if allowed.shape[-1] >= stop:
        at = columns[..., None].expand(allowed.shape[0], -1, 1)
        valid = allowed.gather(-1, at).squeeze(-1)
    else:
        valid = allowed.any(-1)
    counted = (allowed.long().sum(-1) - 1).clamp(min=0)
    return valid, counted if given is None else given.to(mask.device)


def _refuse_packed(position_ids: Tensor, valid: Tensor) -> None:
    both = valid[:, 1:] & valid[:, :-1]
    if bool((both & (position_ids[:, 1:] <= position_ids[:, :-1])).any()):
        raise PlanError(
            "position_ids restart inside a row, so several texts are packed into it; "
            "steer one text per row, padded."
        )
