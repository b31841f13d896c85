"""Which latents survive a batch: a dense matmul that may be rough, then an exact choice.

The dense pre-activations only nominate. Nominees are computed again in fp32, and the choice is made
among those, so a bf16 matmul gives the latents that an fp32 one would: it nominates more than are
needed, and its error is far smaller than the gap to the last of them.
"""

from __future__ import annotations

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


@torch.no_grad()
def survivors(
    centred: Float[Tensor, "rows d_in"],
    pre: Float[Tensor, "rows d_sae"],
    w_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"],
    k: int,
    kind: Kind,
    threshold: Float[Tensor, ""],
) -> tuple[Active, Float[Tensor, " n"]]:
    """The entries that survive, by row and feature, and their fp32 latents.

    Args:
        centred: what the encoder's columns are multiplied with.
        pre: dense pre-activations in any dtype; its memory may be written over.
        threshold: running threshold of a batch's choice; 0 where there is none yet.
    """
    if kind == "batchtopk":
        floor = torch.where(threshold > 0, threshold * _FLOOR_SHARE, torch.inf)
        active = _above(pre, floor, k * len(pre))
        latents = (bag_dots(centred, w_enc, active) + b_enc[active.features]).relu()
        keep = _best(latents, min(k * len(pre), len(latents)))
        return Active.of(active.bags[keep], active.features[keep], len(pre)), latents[keep]
    signed = kind == "abstopk"
    rough = pre.dtype != torch.float32
    nominated = min(int(k * _SPARE) + 1, pre.shape[1]) if rough else k
    active = _largest(pre.abs_() if signed else pre, nominated)
    latents = bag_dots(centred, w_enc, active) + b_enc[active.features]
    if nominated > k:
        active, latents = _trim(active, latents, k, nominated, signed=signed)
    return active, latents if signed else latents.relu()


def _best(latents: Tensor, n: int) -> Tensor:
    """Places of the n largest, in order; a GPU sorts faster than it chooses so many."""
    if latents.is_cuda:
        return latents.sort(descending=True, stable=True).indices[:n].sort().values
    return latents.topk(n, sorted=False).indices.sort().values


def _above(pre: Tensor, floor: Tensor, wanted: int) -> Active:
    """Entries above `floor`, or the largest ones if those are too few."""
    flat = pre.flatten()
    found = (flat > floor).nonzero().squeeze(1)
    if len(found) < wanted:
        n = min(int(wanted * _SPARE), flat.numel())
        found = flat.topk(n, sorted=False).indices.sort().values
    return Active.of(found // pre.shape[1], found % pre.shape[1], len(pre))


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
