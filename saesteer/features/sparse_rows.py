"""Rows that are mostly zero, as latents are: kept by their entries and multiplied by those alone.

Latents of 8,192 columns with some 150 entries a row take a fiftieth of the memory. `embedding_bag`
does the product, since its backward gives the same bits in every run, on any number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional


@final
@dataclass(frozen=True, eq=False)
class SparseRows:
    """Entries row after row: their columns and values, and how many each row has."""

    columns: Int[Tensor, " entries"]
    values: Float[Tensor, " entries"]
    counts: Int[Tensor, " rows"]

    @classmethod
    def of(cls, rows: Float[Tensor, "rows width"]) -> SparseRows:
        """The same rows without their zeros."""
        at, columns = rows.nonzero(as_tuple=True)
        counts = torch.bincount(at, minlength=len(rows))
        return cls(columns.int(), rows[at, columns], counts)

    @classmethod
    def join(cls, parts: Sequence[SparseRows]) -> SparseRows:
        """All rows of the parts, in order."""
        fields = ("columns", "values", "counts")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in fields))

    def __len__(self) -> int:
        return len(self.counts)

    def times(self, matrix: Float[Tensor, "width out"]) -> Float[Tensor, "rows out"]:
        """The rows times a matrix, which may be learned."""
        starts = self.counts.cumsum(0) - self.counts
        values = self.values.to(matrix.dtype)
        return functional.embedding_bag(
            self.columns.long(), matrix, starts, mode="sum", per_sample_weights=values
        )

    def dense(self, width: int) -> Float[Tensor, "rows width"]:
        """The rows with their zeros."""
        return self.times(torch.eye(width, dtype=self.values.dtype))

    def moments(self, width: int) -> tuple[Float[Tensor, " width"], Float[Tensor, " width"]]:
        """Mean and standard deviation of each column, zeros counted."""
        columns, values, n = self.columns.long(), self.values.double(), max(len(self), 1)
        mean, square = (
            torch.zeros(width, dtype=torch.float64).index_add_(0, columns, values**power) / n
            for power in (1, 2)
        )
        return mean.float(), (square - mean**2).clamp_min(0).sqrt().float()

    def rows(self, chosen: Bool[Tensor, " rows"]) -> SparseRows:
        """Some of the rows."""
        entries = chosen.repeat_interleave(self.counts)
        return SparseRows(self.columns[entries], self.values[entries], self.counts[chosen])
