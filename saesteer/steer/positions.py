"""Which positions of a pass are real tokens, and how many come before each in its row.

Asked once per pass, on top of a decoding step of a few hundred small operations, so the frequent
case, one new token behind a mask that is all ones or padded, is answered in as few as it can.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saesteer.errors import PlanError


def positions(
    kwargs: Mapping[str, Any], batch: int, n: int, start: int, device: torch.device
) -> tuple[Tensor, Tensor, bool]:
    """Validity and logical position, each `[batch, n]`, and whether all are known to be valid.

    Raises:
        PlanError: packed rows, or a mask that can't be read or does not cover the text.
    """
    given = kwargs.get("position_ids")
    given = given if isinstance(given, Tensor) and given.ndim == 2 else None
    mask = full_mask(kwargs.get("attention_mask"))
    whole = mask is None
    if mask is None:
        valid = _all_real(batch, n, device)
        logical = _columns(start, batch, n, device)
    elif mask.ndim == 2:
        valid, logical = _from_padding_mask(mask.to(device), n, start + n)
    else:
        columns = _columns(start, 1, n, device)
        valid, logical = _from_attention_mask(mask.to(device), columns, start + n, given)
    if len(valid) not in (1, batch):
        raise PlanError(f"the attention mask has {len(valid)} rows, expected the pass's {batch}.")
    if len(valid) != batch:
        valid, logical = valid.expand(batch, n), logical.expand(batch, n)
    if given is not None and n > 1:
        _refuse_packed(given.to(device).expand(batch, n), valid)
    return valid, logical, whole or (device.type == "cpu" and bool(valid.all()))


@functools.lru_cache(maxsize=8)
def _all_real(batch: int, n: int, device: torch.device) -> Tensor:
    """True everywhere; nobody writes into it."""
    return torch.ones(batch, n, dtype=torch.bool, device=device)


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
