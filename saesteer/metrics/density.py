"""How often latents fire, over fixed bins, so that two SAEs can be laid side by side.

A latent's frequency is the share of tokens on which it is positive. Frequencies span five orders of
magnitude, so they are binned by log10; those that never fired are counted apart, since on a short
text most of them are rare and not dead.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from saesteer.shown import shown

DENSE_FREQUENCY = 0.1
"""Latents on more tokens than this are dense (Karvonen et al. 2025, SAEBench, core metrics)."""

LOG10_EDGES = tuple(step / 4 for step in range(-24, 1))
"""-6 to 0 in quarters; what is rarer than one token in a million falls in the first bin."""


@shown
@dataclass(frozen=True)
class Density:
    """Firing frequencies of an SAE's latents.

    Attributes:
        log10_edges: n + 1 edges of the bins; a bin holds its upper edge, so 0 is every token.
        counts: latents in each of the n bins.
        never_fired: latents in none of them.
        dense_fraction: share of all latents that fire on more than a tenth of the tokens.
    """

    log10_edges: tuple[float, ...]
    counts: tuple[int, ...]
    never_fired: int
    dense_fraction: float


def density_of(fired: Int[Tensor, " d_sae"], n_tokens: int) -> Density:
    """Bin the latents by frequency; `fired` is the number of tokens, of `n_tokens`, on which."""
    frequency = fired.double() / max(n_tokens, 1)
    log10 = frequency[fired > 0].log10()
    inner = torch.tensor(LOG10_EDGES[1:-1], dtype=torch.float64, device=fired.device)
    bins = torch.bucketize(log10, inner)
    return Density(
        log10_edges=LOG10_EDGES,
        counts=tuple(torch.bincount(bins, minlength=len(LOG10_EDGES) - 1).tolist()),
        never_fired=int((fired == 0).sum()),
        dense_fraction=float((frequency > DENSE_FREQUENCY).double().mean()),
    )
