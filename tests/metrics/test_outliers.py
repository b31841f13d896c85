"""Outlier tokens: four times the median norm of the batch, padding aside."""

from __future__ import annotations

import pytest
import torch

from saesteer.metrics import median_norm, norms, outlier_tokens


def tokens(*lengths: float) -> torch.Tensor:
    """Activations [1, pos, 4] of the given norms."""
    rows = torch.zeros(1, len(lengths), 4)
    rows[0, :, 1] = torch.tensor(lengths)
    return rows


def test_only_what_exceeds_four_medians_is_out():
    assert outlier_tokens(tokens(1, 1, 1, 4, 4.01)).tolist() == [[False] * 4 + [True]]


def test_scale_does_not_matter():
    resid = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(0))
    resid[1, 3] *= 100
    flags = outlier_tokens(resid)
    assert flags.sum() == 1
    assert flags[1, 3]
    assert torch.equal(outlier_tokens(resid * 1e3), flags)


@pytest.mark.parametrize("dtype", [torch.bool, torch.long])
def test_padding_neither_counts_nor_is_flagged(dtype):
    resid = tokens(1, 1, 1, 9, 500, 500, 500, 500)
    valid = torch.tensor([[True] * 4 + [False] * 4]).to(dtype)
    flags = outlier_tokens(resid, valid)
    assert flags.dtype == torch.bool
    assert flags.tolist() == [[False] * 3 + [True] + [False] * 4]
    assert median_norm(resid, valid) == 1


def test_nothing_valid_gives_no_outlier():
    resid = tokens(1, 100)
    valid = torch.zeros(1, 2, dtype=torch.bool)
    assert not outlier_tokens(resid, valid).any()
    assert median_norm(resid, valid).isnan()


def test_norms_of_half_precision_are_taken_in_fp32():
    resid = torch.full((1, 1, 4), 300.0, dtype=torch.float16)
    assert norms(resid).dtype == torch.float32
    assert norms(resid).item() == 600.0
