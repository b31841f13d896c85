"""AUROC and effect size against scikit-learn, scipy and their own symmetries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saesteer.features.separation import auroc, average_ranks, cohens_d


def latents(n: int, d: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mostly zeros and many ties, as latents are; both labels occur."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-4, 4, (n, d), generator=generator).clamp(min=0).float()
    positive = torch.rand(n, generator=generator) < 0.5
    positive[0], positive[1] = True, False
    return values, positive


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(0, 1000))
def test_auroc_is_scikit_learns_for_every_column(n: int, seed: int) -> None:
    from sklearn.metrics import roc_auc_score

    values, positive = latents(n, 5, seed)
    expected = [roc_auc_score(positive.numpy(), column.numpy()) for column in values.T]
    np.testing.assert_allclose(auroc(values, positive).numpy(), expected, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(0, 1000))
def test_ranks_are_scipys(n: int, seed: int) -> None:
    from scipy.stats import rankdata

    values, _ = latents(max(n, 2), 4, seed)
    np.testing.assert_array_equal(average_ranks(values).numpy(), rankdata(values.numpy(), axis=0))


def test_auroc_changes_sides_with_the_labels_and_not_with_the_scale() -> None:
    values, positive = latents(30, 50, 3)
    area = auroc(values, positive)
    torch.testing.assert_close(auroc(values, ~positive), 1 - area)
    torch.testing.assert_close(auroc(values.exp() * 7, positive), area)


def test_column_chunks_change_nothing() -> None:
    values, positive = latents(12, 4100, 5)
    whole = auroc(values, positive)
    torch.testing.assert_close(whole[4090:], auroc(values[:, 4090:], positive))


def test_auroc_needs_both_groups() -> None:
    with pytest.raises(AssertionError, match="both groups"):
        auroc(torch.zeros(3, 2), torch.ones(3, dtype=torch.bool))


def test_cohens_d_is_the_textbook_value() -> None:
    values = torch.tensor([[2.0], [4.0], [6.0], [1.0], [3.0], [5.0]])
    positive = torch.tensor([True, True, True, False, False, False])
    torch.testing.assert_close(cohens_d(values, positive), torch.tensor([0.5]))
    torch.testing.assert_close(cohens_d(values * 9 + 2, ~positive), torch.tensor([-0.5]))


def test_a_silent_column_has_no_effect() -> None:
    values, positive = torch.zeros(6, 1), torch.arange(6) < 3
    assert cohens_d(values, positive).item() == 0.0
    assert auroc(values, positive).item() == 0.5
