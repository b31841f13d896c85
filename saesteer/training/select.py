"""Which latents survive a batch: a dense matmul that may be rough, then an exact choice.

The dense pre-activations only nominate. Nominees are computed again in fp32, and the choice is made
among those, so a bf16 matmul gives the latents that an fp32 one would: it nominates more than are
needed, and its error is far smaller than the gap to the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.training.kernels import Active, bag_dots

Kind = Literal["topk", "batchtopk", "abstopk"]
"""k of each row; k a row on average over the batch; k of each row by magnitude, signs kept."""

_FLOOR_SHARE = 0.8
"""Nominees of a batch are latents above this share of the running threshold."""
_GROUP = 8
"""Entries of a row that first compete among themselves for a place among its largest."""
_SPARE = 1.25
"""Nominees as a multiple of those wanted, where no threshold says enough."""
_PART = 1 << 22
"""Entries of a batch among which its largest are looked for together."""


@torch.no_grad()
def row_survivors(
    centred: Float[Tensor, "rows d_in"],
    pre: Float[Tensor, "rows d_sae"],
    w_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"],
    k: int,
    *,
    signed: bool,
) -> tuple[Active, Float[Tensor, " n"]]:
    """The k entries that survive in each row, and their fp32 latents.

    Args:
        centred: what the encoder's columns are multiplied with.
        pre: dense pre-activations in any dtype; its memory may be written over.
        signed: choose by magnitude and keep signs.
    """
    rough = pre.dtype != torch.float32
    nominated = min(int(k * _SPARE) + 1, pre.shape[1]) if rough else k
    active = _largest(pre.abs_() if signed else pre, nominated)
    latents = bag_dots(centred, w_enc, active) + b_enc[active.features]
    if nominated > k:
        active, latents = _trim(active, latents, k, nominated, signed=signed)
    return active, latents if signed else latents.relu()


@torch.no_grad()
def batch_survivors(
    centred: Float[Tensor, "rows d_in"],
    dense: Callable[[], Iterator[Tensor]],
    w_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"],
    k: int,
    threshold: Float[Tensor, ""],
) -> tuple[Active, Float[Tensor, " n"]]:
    """The entries that survive in the whole batch, k a row on average, and their fp32 latents.

    Args:
        centred: what the encoder's columns are multiplied with.
        dense: gives the pre-activations of one block of rows after another, each only until the
            next one is asked for; called again where the threshold nominates too few.
        threshold: running threshold of the choice; 0 where there is none yet.
    """
    n_rows, d_sae = len(centred), len(w_enc)
    floor = torch.where(threshold > 0, threshold * _FLOOR_SHARE, torch.inf)
    places = _places_above(dense(), floor)
    if len(places) < k * n_rows:
        places = _places_of_largest(dense(), int(k * n_rows * _SPARE))
    active = Active.of(places // d_sae, places % d_sae, n_rows)
    latents = (bag_dots(centred, w_enc, active) + b_enc[active.features]).relu()
    keep = _best(latents, min(k * n_rows, len(latents)))
    return Active.of(active.bags[keep], active.features[keep], n_rows), latents[keep]


def _best(latents: Tensor, n: int) -> Tensor:
    """Places of the n largest, in order; a GPU sorts faster than it chooses so many."""
    if latents.is_cuda:
        return latents.sort(descending=True, stable=True).indices[:n].sort().values
    return latents.topk(n, sorted=False).indices.sort().values


def _places_above(blocks: Iterator[Tensor], floor: Tensor) -> Tensor:
    """Where entries are above `floor`, counted through all blocks."""
    found, start = [], 0
    for block in blocks:
        flat = block.flatten()
        found.append((flat > floor).nonzero().squeeze(1) + start)
        start += len(flat)
    return torch.cat(found)


def _places_of_largest(blocks: Iterator[Tensor], n: int) -> Tensor:
    """Where the n largest entries are, or all if they are fewer, counted through all blocks.

    A part at a time: on a CPU a choice among all of them would copy each, with its place.
    """
    values, places, start = torch.empty(0), torch.empty(0, dtype=torch.long), 0
    for block in blocks:
        for part in block.flatten().split(_PART):
            best = part.topk(min(n, len(part)), sorted=False)
            values = torch.cat([values.to(part), best.values])
            places = torch.cat([places.to(part.device), best.indices + start])
            keep = values.topk(min(n, len(values)), sorted=False).indices
            values, places = values[keep], places[keep]
            start += len(part)
    return places.sort().values


def _largest(pre: Tensor, n: int) -> Active:
    """The n largest entries of every row.

    They lie in the n groups with the largest maxima, so that few entries have to be put in order.
    """
    size = _GROUP if n * _GROUP < pre.shape[1] and pre.shape[1] % _GROUP == 0 else 1
    n_groups = pre.shape[1] // size
    maxima = pre.view(len(pre), size, n_groups).amax(1) if size > 1 else pre
    features = maxima.topk(n, dim=-1, sorted=False).indices
    if size > 1:
        offsets = torch.arange(0, pre.shape[1], n_groups, device=pre.device)
        members = (features[:, None, :] + offsets[:, None]).flatten(1)
        best = pre.gather(1, members).topk(n, dim=-1, sorted=False).indices
        features = members.gather(1, best)
    return _row_by_row(features.flatten(), len(pre), n)


def _trim(
    active: Active, latents: Tensor, k: int, nominated: int, *, signed: bool
) -> tuple[Active, Tensor]:
    """The k best of every row's nominees by their fp32 latents."""
    by_row = latents.view(-1, nominated)
    best = (by_row.abs() if signed else by_row).topk(k, dim=-1, sorted=False).indices
    features = active.features.view(-1, nominated).gather(1, best)
    return _row_by_row(features.flatten(), len(by_row), k), by_row.gather(1, best).flatten()


def _row_by_row(features: Tensor, n_rows: int, n: int) -> Active:
    bags = torch.arange(n_rows, device=features.device).repeat_interleave(n)
    return Active(bags, features, torch.arange(0, n_rows * n, n, device=features.device))
