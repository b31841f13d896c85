"""Pairs of prompts that a tiny model can be asked about."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from saesteer.data.contrast import Contrast, Example


def _pair_of(number: int, prompts: tuple[str, str], answers: tuple[str, str]) -> list[Example]:
    """A clean and a corrupted example."""
    sides = zip(prompts, answers, (1, 0), strict=True)
    return [Example(a, label, pair=str(number), prompt=p) for p, a, label in sides]


@pytest.fixture(scope="package")
def swaps() -> Contrast:
    """Two pairs, each with one word swapped and another answer."""
    return Contrast(
        (
            *_pair_of(0, ("a b c d e", "a q c d e"), (" x", " z")),
            *_pair_of(1, ("k l m", "k l w"), (" v", " g")),
        ),
        "swaps",
    )


@pytest.fixture(scope="package")
def pair_of() -> Callable[..., list[Example]]:
    """Makes a pair of prompts with answers."""
    return _pair_of
