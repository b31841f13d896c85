"""Logistic readouts over more columns than rows, fitted in the space that the rows span.

Rows come in blocks of columns, such as one for each part of a text. Two rows are as alike as
`((1 + Σ cos) / (1 + n_blocks))²`, over the cosines of their blocks: the square weighs pairs of
columns too, within a block and across blocks, and none of the billions is written down. An
L2-regularised fit sees no more of the columns than these likenesses, so 1,000 rows of 32,768
numbers are fitted as 1,000 rows of 1,000 coordinates.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from saesteer.errors import ContrastError

Blocks = Sequence[Float[Tensor, "n _"]]


@final
@dataclass(frozen=True, eq=False)
class RowSpace:
    """Some of a set's rows, by their coordinates along orthogonal axes.

    Columns are centred and divided by the root of their standard deviation: a feature that seldom
    fires then counts for more than as it is, and for less than if all columns varied alike.

    Attributes:
        blocks: the whole set's columns, shared by the spaces of its parts.
        used: which rows span the space.
        centre, scale: of each block's columns, over those rows.
        lengths: of those rows in each block, once centred and scaled.
        coordinates: of those rows.
        axes: what each row adds to each axis; `mean` is each row's mean likeness to all of them.
    """

    blocks: tuple[Float[Tensor, "all _"], ...]
    used: Bool[Tensor, " all"]
    centre: tuple[Float[Tensor, " _"], ...]
    scale: tuple[Float[Tensor, " _"], ...]
    lengths: tuple[Float[Tensor, " rows"], ...]
    coordinates: Float[Tensor, "rows axes"]
    axes: Float[Tensor, "rows axes"]
    mean: Float[Tensor, " rows"]

    @classmethod
    def of(cls, blocks: Blocks, used: Bool[Tensor, " all"]) -> RowSpace:
        """The space that the used rows of a set span."""
        rows = [block[used] for block in blocks]
        centre = tuple(own.mean(0) for own in rows)
        scale = tuple(own.std(0).clamp_min(1e-6).sqrt() for own in rows)
        parts = zip(rows, centre, scale, strict=True)
        scaled = [(own - middle) / spread for own, middle, spread in parts]
        lengths = tuple(own.norm(dim=-1).clamp_min(1e-6) for own in scaled)
        units = [own / length[:, None] for own, length in zip(scaled, lengths, strict=True)]
        alike = _likeness([own @ own.T for own in units])
        mean = alike.mean(1)
        values, vectors = torch.linalg.eigh((alike - mean - mean[:, None] + mean.mean()).double())
        kept = values > 1e-6 * values[-1]  # the rest is rounding: centred rows lack one dimension
        root, vectors = values[kept].sqrt(), vectors[:, kept]
        coordinates, axes = (vectors * root).float(), (vectors / root).float()
        return cls(tuple(blocks), used, centre, scale, lengths, coordinates, axes, mean)

    def likeness(self, blocks: Blocks) -> Float[Tensor, "n rows"]:
        """How alike new rows are to those of the space."""
        cosines: list[Tensor] = []
        for own, known, middle, spread, length in zip(
            blocks, self.blocks, self.centre, self.scale, self.lengths, strict=True
        ):
            turned = normalize((own - middle) / spread, dim=-1) / spread
            along = (turned @ known.T)[:, self.used] - (turned @ middle)[:, None]
            cosines.append(along / length)
        return _likeness(cosines)

    def fit(self, positive: Bool[Tensor, " rows"], c: float) -> Fit:
        """A logistic regression, both labels counting alike.

        Args:
            c: inverse strength of the regularisation.

        Raises:
            ContrastError: the rows have one label only.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        if bool(positive.all()) or not bool(positive.any()):
            raise ContrastError(f"all {len(positive)} rows have one label; a readout needs both.")
        logistic = LogisticRegression(C=c, max_iter=200, class_weight="balanced")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            logistic.fit(self.coordinates.numpy(), positive.numpy())
        along, intercept = np.ravel(logistic.coef_), np.ravel(logistic.intercept_)
        return Fit(self, torch.from_numpy(along).float(), float(intercept[0]))


@final
@dataclass(frozen=True, eq=False)
class Fit:
    """A fit along the axes of a space."""

    space: RowSpace
    along: Float[Tensor, " axes"]
    intercept: float

    def scores(self) -> Float[Tensor, " rows"]:
        """Of the space's own rows."""
        return self.space.coordinates @ self.along + self.intercept

    def of(self, blocks: Blocks) -> Float[Tensor, " n"]:
        """Of other rows, positive where the label is the likelier one."""
        each = self.space.axes @ self.along  # sums to 0, as axes are centred
        return (self.space.likeness(blocks) - self.space.mean) @ each + self.intercept


def _likeness(cosines: Sequence[Tensor]) -> Tensor:
    """A polynomial kernel of degree 2, 1 for a row and itself."""
    return ((1 + torch.stack(list(cosines)).sum(0)) / (1 + len(cosines))).square()
