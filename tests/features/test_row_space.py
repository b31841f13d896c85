"""Fits in the space of the rows against the same fits over the columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from saesteer.errors import ContrastError
from saesteer.features.row_space import RowSpace

N, WIDTH = 40, 90


def planted() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(N, WIDTH, generator=generator) * torch.linspace(0.1, 5, WIDTH)
    unsafe = rows[:, 80] + torch.randn(N, generator=generator) > 2.5
    rows[:, 0] = 0.0
    return rows, unsafe


def by_columns(rows, positive, weight, c):
    """The fit that the docstring describes, over every column, in double precision."""
    centred = (rows - rows.mean(0)).double() / rows.std(0).clamp_min(1e-6).sqrt().double()
    centred /= centred.square().sum(1).mean().sqrt()
    fit = LogisticRegression(C=c, tol=1e-8, max_iter=5000, class_weight="balanced")
    used = (weight > 0).numpy()
    fit.fit(centred.numpy()[used], positive.numpy()[used], weight.numpy()[used])
    return torch.from_numpy(fit.decision_function(centred.numpy())).float()


@pytest.mark.parametrize("c", [0.5, 8.0])
def test_scores_are_those_of_a_fit_over_all_columns(c):
    rows, positive = planted()
    weight = torch.linspace(0.2, 1.0, N)
    weight[::7] = 0.0
    expected = by_columns(rows, positive, weight, c)
    found = RowSpace.of([rows]).fit(positive, weight, c)
    assert torch.allclose(found.scores(), expected, atol=0.02 * float(expected.std()))


def test_the_score_of_columns_is_the_score_of_coordinates():
    rows, positive = planted()
    fit = RowSpace.of([rows[:, :30], rows[:, 30:]]).fit(positive, torch.ones(N), 4.0)
    assert torch.allclose(fit.score().of(rows), fit.scores(), atol=1e-3)
    assert fit.score().weight[0].abs() < 1e-2, "a column that never varies says nothing"


def test_rows_of_no_weight_have_no_say():
    rows, positive = planted()
    weight = torch.ones(N)
    weight[:9] = 0.0
    space, turned = RowSpace.of([rows]), positive.clone()
    turned[:9] = ~turned[:9]
    assert torch.equal(space.fit(positive, weight, 4.0).along, space.fit(turned, weight, 4.0).along)


def test_blocks_count_alike_whatever_their_scale():
    rows, positive = planted()
    blocks = [rows[:, :60], rows[:, 60:]]
    louder = [blocks[0], blocks[1] * 1000]
    fits = [RowSpace.of(some).fit(positive, torch.ones(N), 4.0) for some in (blocks, louder)]
    one, other = (fit.scores() for fit in fits)
    assert torch.allclose(one, other, atol=1e-2)
    lengths = fits[0].space.coordinates.square().sum(1)
    assert np.isclose(float(lengths.mean()), 1.0, atol=1e-3)


def test_rows_of_one_label_are_refused():
    rows, positive = planted()
    with pytest.raises(ContrastError, match="all 3 rows have one label"):
        RowSpace.of([rows]).fit(~positive & positive, (torch.arange(N) < 3).float(), 1.0)
