"""A histogram of values that come in batches and whose range nobody knows beforehand.

When a value lies beyond the last bin, neighbouring bins merge and the width doubles: counts stay
exact and memory stays fixed, however long the stream is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Histogram:
    """Counts between n + 1 equally spaced edges, the first at 0."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@final
class GrowingHistogram:
    """Counts positive values into equal bins that double in width whenever they have to."""

    def __init__(self, n_bins: int = 32, width: float = 2.0**-8) -> None:
        """Start with narrow bins; `n_bins` is even."""
        assert n_bins % 2 == 0, "bins merge in pairs"
        self.width = width
        self.counts = torch.zeros(n_bins, dtype=torch.long)

    def add(self, values: Float[Tensor, " n"]) -> None:
        """Count more values, all positive and finite."""
        if not len(values):
            return
        n_bins, highest = len(self.counts), float(values.max())
        while highest > self.width * n_bins:
            merged = self.counts.view(-1, 2).sum(-1)
            self.counts = torch.cat([merged, torch.zeros_like(merged)])
            self.width *= 2
        bins = (values / self.width).long().clamp(max=n_bins - 1)
        self.counts += torch.bincount(bins.cpu(), minlength=n_bins)

    def result(self) -> Histogram:
        """The counts so far, without the empty bins beyond the largest value."""
        filled = self.counts.nonzero().flatten()
        n_bins = int(filled[-1]) + 1 if len(filled) else 0
        edges = tuple(i * self.width for i in range(n_bins + 1))
        return Histogram(edges, tuple(self.counts[:n_bins].tolist()))
