"""Distinct-n over texts and token lists."""

from __future__ import annotations

import inspect

import pytest

from saesteer.errors import DataError
from saesteer.metrics import distinct_n


@pytest.mark.parametrize(
    ("samples", "n", "expected"),
    [
        (["a b c d"], 2, 1.0),
        (["a a a a"], 2, 1 / 3),
        (["a b", "a b"], 2, 0.5),
        (["a b", "b a"], 2, 1.0),
        ([[1, 2, 1], [1, 2]], 1, 2 / 5),
        (["one"], 2, 0.0),
        ([], 2, 0.0),
    ],
)
def test_different_over_all(samples, n, expected):
    assert distinct_n(samples, n) == pytest.approx(expected)


def test_no_bigram_spans_two_samples():
    assert distinct_n(["a", "b"], 2) == 0.0


def test_saying_it_again_halves_it():
    text = "the cat sat on the mat"
    assert distinct_n([text, text]) == pytest.approx(distinct_n([text]) / 2)


@pytest.mark.parametrize("n", [0, -1, 1.5, "2"])
def test_n_is_a_whole_number(n):
    with pytest.raises(DataError, match="expected a whole number of 1 or more"):
        inspect.unwrap(distinct_n)(["a b c"], n)
