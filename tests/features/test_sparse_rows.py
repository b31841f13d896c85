"""Rows without their zeros do what they do with them."""

from __future__ import annotations

import pytest
import torch

from saesteer.features.sparse_rows import SparseRows


def rows(seed: int = 0, n: int = 6, width: int = 9) -> torch.Tensor:
    made = torch.randn(n, width, generator=torch.Generator().manual_seed(seed)).relu()
    made[2] = 0
    return made


def test_only_entries_are_kept_and_all_come_back():
    kept = SparseRows.of(rows())
    assert len(kept.values) == int((rows() != 0).sum())
    assert torch.equal(kept.dense(9), rows())
    assert len(kept) == 6


def test_joined_rows_follow_each_other():
    joined = SparseRows.join([SparseRows.of(rows(0)), SparseRows.of(rows(1))])
    assert torch.equal(joined.dense(9), torch.cat([rows(0), rows(1)]))


def test_a_product_and_its_gradient_are_the_dense_ones():
    matrices = [torch.linspace(-1, 1, 36).reshape(9, 4).requires_grad_() for _ in range(2)]
    ours, dense = SparseRows.of(rows()).times(matrices[0]), rows() @ matrices[1]
    torch.testing.assert_close(ours, dense)
    for out in (ours, dense):
        out.square().sum().backward()
    torch.testing.assert_close(matrices[0].grad, matrices[1].grad)


def test_moments_count_the_zeros():
    mean, spread = SparseRows.of(rows()).moments(9)
    torch.testing.assert_close(mean, rows().mean(0))
    torch.testing.assert_close(spread, rows().std(0, correction=0))


@pytest.mark.parametrize("n", [0, 1])
def test_few_rows_are_no_special_case(n):
    assert SparseRows.of(rows()[:n]).times(torch.ones(9, 2)).shape == (n, 2)
