"""The growing histogram counts as a fixed one with its final edges would."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saesteer.features.histogram import GrowingHistogram, Histogram


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(2**-13, 2**13, width=32), min_size=1, max_size=60), st.integers(1, 9))
def test_counts_are_those_of_the_final_edges(values: list[float], size: int) -> None:
    growing = GrowingHistogram(n_bins=16)
    stream = torch.tensor(values)
    for batch in stream.split(size):
        growing.add(batch)
    result = growing.result()
    assert sum(result.counts) == len(values)
    assert len(result.counts) <= 16
    assert result.edges[-1] >= stream.max().item()
    expected = [
        sum(low <= v < high for v in stream.tolist())
        for low, high in zip(result.edges, result.edges[1:], strict=False)
    ]
    if stream.max().item() < result.edges[-1]:
        assert list(result.counts) == expected


def test_nothing_counted_is_an_empty_histogram() -> None:
    growing = GrowingHistogram()
    growing.add(torch.zeros(0))
    assert growing.result() == Histogram((0.0,), ())
