"""Which latents survive a batch: a dense matmul that may be rough, then an exact choice.

The dense pre-activations only nominate. Nominees are computed again in fp32, and the choice is made
among those, so a bf16 matmul gives the latents that an fp32 one would: it nominates more than are
needed, and its error is far smaller than the gap to the last of them. Where it is asked to be sure,
that is looked at: nominees tell how large errors are, and where the gap is not twice the largest,
the choice is made again by an fp32 matmul.
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
_DOUBT = 2
"""Errors, of the largest among the nominees, that an entry left out is allowed for."""
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
    sure: bool = False,
) -> tuple[Active, Float[Tensor, " n"]]:
    """The k entries that survive in each row, and their fp32 latents.

    Args:
        centred: what the encoder's columns are multiplied with.
        pre: dense pre-activations in any dtype; its memory may be written over.
        signed: choose by magnitude and keep signs.
        sure: look whether rough pre-activations may have missed a survivor.
    """
    rough = pre.dtype != torch.float32
    nominated = min(int(k * _SPARE) + 1, pre.shape[1]) if rough else k
    features = _largest(pre.abs_() if signed else pre, nominated)
    latents = _latents(centred, w_enc, b_enc, features)
    if nominated > k:
        sizes = latents.abs() if signed else latents
        best = sizes.topk(k, dim=-1, sorted=False).indices
        unsure = _unsure(centred, pre, features, sizes, best) if sure else ()
        features, latents = features.gather(1, best), latents.gather(1, best)
        if len(unsure):
            exact = torch.addmm(b_enc, centred[unsure], w_enc.t())
            features[unsure] = _largest(exact.abs_() if signed else exact, k)
            latents[unsure] = _latents(centred[unsure], w_enc, b_enc, features[unsure])
    if not pre.is_cuda:  # so that sums have the same bits however they were nominated
        features, order = features.sort(dim=-1)
        latents = latents.gather(1, order)
    latents = latents.flatten()
    return _row_by_row(features), latents if signed else latents.relu()


@torch.no_grad()
def batch_survivors(
    centred: Float[Tensor, "rows d_in"],
    dense: Callable[[torch.dtype], Iterator[Tensor]],
    w_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"],
    k: int,
    threshold: Float[Tensor, ""],
    rough: torch.dtype,
    *,
    sure: bool = False,
) -> tuple[Active, Float[Tensor, " n"]]:
    """The entries that survive in the whole batch, k a row on average, and their fp32 latents.

    Args:
        centred: what the encoder's columns are multiplied with.
        dense: gives the pre-activations, in a dtype, of one block of rows after another, each only
            until the next one is asked for; called again where the threshold nominates too few.
        threshold: running threshold of the choice; 0 where there is none yet.
        rough: dtype of those that nominate.
        sure: look whether they may have missed a survivor.
    """
    n_rows, d_sae = len(centred), len(w_enc)
    least = torch.where(threshold > 0, threshold * _FLOOR_SHARE, torch.inf)
    places, seen = _above(dense(rough), least)
    if len(places) < k * n_rows:
        places, seen = _largest_of(dense(rough), int(k * n_rows * _SPARE))
        least = seen.min()
    active = Active.of(places // d_sae, places % d_sae, n_rows)
    pre = bag_dots(centred, w_enc, active) + b_enc[active.features]
    latents = pre.relu()
    keep = _best(latents, min(k * n_rows, len(latents)))
    if sure and _doubtful(latents[keep].min(), least, pre, seen):
        return batch_survivors(centred, dense, w_enc, b_enc, k, threshold, torch.float32)
    return Active.of(active.bags[keep], active.features[keep], n_rows), latents[keep]


def _best(latents: Tensor, n: int) -> Tensor:
    """Places of the n largest, in order; a GPU sorts faster than it chooses so many."""
    if latents.is_cuda:
        return latents.sort(descending=True, stable=True).indices[:n].sort().values
    return latents.topk(n, sorted=False).indices.sort().values


def _above(blocks: Iterator[Tensor], floor: Tensor) -> tuple[Tensor, Tensor]:
    """Where entries are above `floor`, counted through all blocks, and the entries."""
    found, values, start = [], [], 0
    for block in blocks:
        flat = block.flatten()
        places = (flat > floor).nonzero().squeeze(1)
        found.append(places + start)
        values.append(flat[places])
        start += len(flat)
    return torch.cat(found), torch.cat(values)


def _largest_of(blocks: Iterator[Tensor], n: int) -> tuple[Tensor, Tensor]:
    """Where the n largest entries are, or all if they are fewer, counted through all blocks, and
    the entries.

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
    places, order = places.sort()
    return places, values[order]


def _largest(pre: Tensor, n: int) -> Tensor:
    """Features of the n largest entries of every row, `[rows, n]`.

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
    return features


def _latents(centred: Tensor, w_enc: Tensor, b_enc: Tensor, features: Tensor) -> Tensor:
    """Pre-activations of some features in each row, in fp32."""
    dots = bag_dots(centred, w_enc, _row_by_row(features)).view(features.shape)
    return dots + b_enc[features]


def _unsure(centred: Tensor, pre: Tensor, features: Tensor, exact: Tensor, best: Tensor) -> Tensor:
    """Rows in which an entry that was not nominated might have survived; errors grow with their
    length."""
    seen = pre.gather(1, features)
    scale = centred.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(centred.dtype).tiny)
    last = exact.gather(1, best).amin(-1, keepdim=True)
    return _doubtful(last, seen.amin(-1, keepdim=True), exact, seen, scale).nonzero()[:, 0]


def _doubtful(
    last: Tensor, least: Tensor, exact: Tensor, seen: Tensor, scale: Tensor | float = 1.0
) -> Tensor:
    """Whether an entry that was not nominated might be above the last survivor.

    It was seen no higher than the least nominee. Errors grow with what they are errors of, so those
    of nominees that did not survive are the ones to judge it by, in units of `scale`.
    """
    error = ((seen - exact).abs() / scale).where(exact <= last, 0.0).max()
    return last.relu() < least + _DOUBT * error * scale


def _row_by_row(features: Tensor) -> Active:
    """Entries of which every row has as many, `[rows, n]`."""
    n_rows, n = features.shape
    bags = torch.arange(n_rows, device=features.device).repeat_interleave(n)
    starts = torch.arange(0, n_rows * n, n, device=features.device)
    return Active(bags, features.flatten(), starts)
