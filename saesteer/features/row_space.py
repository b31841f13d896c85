"""Logistic readouts over more columns than rows, fitted in the space that the rows span.

An L2-regularised fit sees no more of the columns than the rows' products with each other, so 1,000
rows of 32,768 numbers are fitted as 1,000 rows of 1,000 coordinates: the same weights, to rounding,
in much less time, and folds within the rows share the decomposition.
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

from saesteer.errors import ContrastError


@final
@dataclass(frozen=True, eq=False)
class LinearScore:
    """`rows · weight + bias`, positive where the label is the likelier one."""

    weight: Float[Tensor, " columns"]
    bias: float

    def of(self, rows: Float[Tensor, "rows columns"]) -> Float[Tensor, " rows"]:
        """One score a row."""
        return rows @ self.weight + self.bias


@final
@dataclass(frozen=True, eq=False)
class RowSpace:
    """Rows by their coordinates along orthogonal axes.

    Columns are centred and divided by the root of their standard deviation: a feature that seldom
    fires then counts for more than as it is, and for less than if all columns varied alike. Blocks
    of columns count alike, and the rows' mean square length is 1, so that one regularisation means
    the same for any number of columns.
    """

    coordinates: Float[Tensor, "rows axes"]
    axes: Float[Tensor, "axes columns"]
    centre: Float[Tensor, " columns"]

    @classmethod
    def of(cls, blocks: Sequence[Float[Tensor, "rows _"]]) -> RowSpace:
        """The space that some rows span, whose columns are given in one or more blocks."""
        parts = [_scaled(block, len(blocks)) for block in blocks]
        centred, scale, centre = (torch.cat(part, -1) for part in zip(*parts, strict=True))
        values, vectors = torch.linalg.eigh((centred @ centred.T).double())
        kept = values > 1e-6 * values[-1]  # the rest is rounding: centred rows lack one dimension
        root, vectors = values[kept].sqrt(), vectors[:, kept]
        axes = (vectors / root).float().T @ centred / scale
        return cls((vectors * root).float(), axes, centre)

    def fit(self, positive: Bool[Tensor, " rows"], weight: Float[Tensor, " rows"], c: float) -> Fit:
        """A logistic regression, both labels counting alike.

        Args:
            weight: what each row counts for; those of weight 0 are left out.
            c: inverse strength of the regularisation.

        Raises:
            ContrastError: the rows that count have one label only.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        chosen = weight > 0
        labels = positive[chosen]
        if bool(labels.all()) or not bool(labels.any()):
            raise ContrastError(f"all {len(labels)} rows have one label; a readout needs both.")
        logistic = LogisticRegression(C=c, max_iter=200, class_weight="balanced")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            logistic.fit(self.coordinates[chosen].numpy(), labels.numpy(), weight[chosen].numpy())
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

    def score(self) -> LinearScore:
        """The same score for rows of columns."""
        weight = self.along @ self.space.axes
        return LinearScore(weight, self.intercept - float(weight @ self.space.centre))


def _scaled(rows: Tensor, n_blocks: int) -> tuple[Tensor, Tensor, Tensor]:
    """The centred and scaled rows of one block, what each column was divided by, and the centre."""
    centre, scale = rows.mean(0), rows.std(0).clamp_min(1e-6).sqrt()
    centred = (rows - centre) / scale
    size = (n_blocks * centred.square().sum(1).mean()).sqrt().clamp_min(1e-6)
    return centred / size, scale * size, centre
