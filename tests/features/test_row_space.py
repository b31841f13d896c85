"""Fits in the space of the rows against the same fits over the columns."""

from __future__ import annotations

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


EVERY = torch.ones(N, dtype=torch.bool)


def by_columns(blocks, positive, c):
    """The fit that the docstring describes, over every column and pair of columns, in double."""
    sides = [torch.ones(N, 1).double()]
    for rows in blocks:
        centred = (rows - rows.mean(0)).double() / rows.std(0).clamp_min(1e-6).sqrt().double()
        sides.append(torch.nn.functional.normalize(centred, dim=-1))
    side = torch.cat(sides, 1) / (1 + len(blocks)) ** 0.5
    pairs = (side[:, :, None] * side[:, None]).flatten(1)
    pairs -= pairs.mean(0)
    fit = LogisticRegression(C=c, tol=1e-8, max_iter=5000, class_weight="balanced")
    fit.fit(pairs.numpy(), positive.numpy())
    return torch.from_numpy(fit.decision_function(pairs.numpy())).float()


@pytest.mark.parametrize("edges", [(90,), (30, 60)])
@pytest.mark.parametrize("c", [0.5, 8.0])
def test_scores_are_those_of_a_fit_over_all_pairs_of_columns(c, edges):
    rows, positive = planted()
    blocks = rows.split(edges, 1)
    expected = by_columns(blocks, positive, c)
    found = RowSpace.of(blocks, EVERY).fit(positive, c)
    assert torch.allclose(found.scores(), expected, atol=0.02 * float(expected.std()))


def test_new_rows_are_scored_as_those_of_the_space_are():
    rows, positive = planted()
    used = torch.arange(N) < 30
    blocks = rows.split((30, 60), 1)
    fit = RowSpace.of(blocks, used).fit(positive[used], 4.0)
    assert torch.allclose(fit.of([b[:30] for b in blocks]), fit.scores(), atol=1e-4)
    right = (fit.of([b[30:] for b in blocks]) > 0) == positive[30:]
    assert float(right.float().mean()) >= 0.7


def test_a_blocks_and_a_rows_scale_change_nothing():
    rows, positive = planted()
    blocks = [rows[:, :60], rows[:, 60:]]
    louder = [blocks[0], blocks[1] * 1000]
    fits = [RowSpace.of(some, EVERY).fit(positive, 4.0) for some in (blocks, louder)]
    one, other = (fit.scores() for fit in fits)
    assert torch.allclose(one, other, atol=1e-2)
    space = fits[0].space
    assert torch.allclose(space.likeness(blocks).diag(), torch.ones(N), atol=1e-5)


def test_what_takes_two_columns_to_tell_is_told():
    generator = torch.Generator().manual_seed(3)
    signs = torch.randint(0, 2, (400, 2), generator=generator) * 2.0 - 1
    noise = 0.3 * torch.randn(400, 10, generator=generator)
    blocks = [torch.cat([signs[:, i : i + 1], noise[:, 5 * i : 5 * i + 5]], 1) for i in (0, 1)]
    positive, used = signs.prod(1) > 0, torch.arange(400) < 300
    fit = RowSpace.of(blocks, used).fit(positive[used], 18.0)
    right = (fit.of([b[300:] for b in blocks]) > 0) == positive[300:]
    assert float(right.float().mean()) > 0.95


def test_rows_of_one_label_are_refused():
    rows, positive = planted()
    with pytest.raises(ContrastError, match="all 40 rows have one label"):
        RowSpace.of([rows], EVERY).fit(~positive & positive, 1.0)
