"""The positions of a pass in tensor operations alone, so that `torch.compile` can trace them.

Says the same as `frame.read_frame`, without what a graph can't hold: numbers read back from a
device, checks of values, and memory between passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saesteer.errors import PlanError
from saesteer.steer.frame import Frame, Prompt, cache_in
from saesteer.steer.positions import Places, full_mask


def graph_frame(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], lengths: Tensor | None, special: Tensor
) -> Frame:
    """The frame of a pass, from the arguments of the base model's forward.

    Args:
        lengths: real tokens of each row's prompt, `[rows]`, or None if nobody said.
        special: ids of special tokens, `[n]`.

    Raises:
        PlanError: a pass without tokens.
    """
    ids = args[0] if args else kwargs.get("input_ids")
    tokens = ids if ids is not None else kwargs.get("inputs_embeds")
    if tokens is None:
        raise PlanError("a forward pass without input_ids and inputs_embeds can't be steered.")
    cache = cache_in(kwargs)
    start = 0 if cache is None else cache.get_seq_length()
    columns = torch.arange(tokens.shape[1], device=tokens.device) + start
    columns = columns.expand(tokens.shape[:2])
    valid, logical = _positions(kwargs, columns)
    rows = None
    if lengths is not None:
        rows = Prompt(lengths).per_row(lengths.to(tokens.device), len(tokens))
    return Frame(
        Places(valid, lambda: logical, whole=False),
        input_ids=ids,
        special=None if ids is None else torch.isin(ids, special.to(ids.device)),
        prompt_lengths=rows,
    )


def _positions(kwargs: Mapping[str, Any], columns: Tensor) -> tuple[Tensor, Tensor]:
    """Validity and logical position of physical `columns [batch, pos]`."""
    mask = full_mask(kwargs.get("attention_mask"))
    if mask is None:
        return torch.ones_like(columns, dtype=torch.bool), columns
    mask = mask.to(columns.device)
    if mask.ndim == 2:
        real = mask > 0
        counted = real.long().cumsum(-1).gather(1, columns)
        return real.gather(1, columns), (counted - 1).clamp(min=0)
    allowed = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] == 0
    allowed = allowed.expand(len(columns), -1, -1)
    valid = allowed.gather(-1, columns[..., None]).squeeze(-1)
    given = kwargs.get("position_ids")
    if isinstance(given, Tensor) and given.ndim == 2:
        return valid, given.to(columns.device).expand(columns.shape)
    return valid, (allowed.long().sum(-1) - 1).clamp(min=0)
