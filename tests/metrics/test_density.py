"""Firing frequencies land in their bins, and nothing is counted twice or lost."""

from __future__ import annotations

import pytest
import torch

from saesteer.metrics import density_of


def test_every_latent_is_in_one_bin_or_never_fired():
    fired = torch.tensor([0, 1, 10, 100, 1000, 0, 3])
    density = density_of(fired, 1000)
    assert sum(density.counts) + density.never_fired == len(fired)
    assert density.never_fired == 2
    assert len(density.log10_edges) == len(density.counts) + 1


@pytest.mark.parametrize(
    ("count", "upper_edge"), [(1, -5.0), (10, -4.0), (12, -3.75), (100_000, 0.0)]
)
def test_a_bin_holds_its_upper_edge(count, upper_edge):
    density = density_of(torch.tensor([count]), 100_000)
    assert density.log10_edges[density.counts.index(1) + 1] == upper_edge


def test_the_rarest_fall_in_the_first_bin():
    assert density_of(torch.tensor([1]), 10_000_000).counts[0] == 1


def test_dense_is_more_than_a_tenth_of_the_tokens():
    assert density_of(torch.tensor([10, 11, 99, 0]), 100).dense_fraction == 0.5
