"""Distinct-n: how little a set of samples repeats itself.

Pooled over all samples, so it also sees a model that says the same thing to every prompt; it falls
as samples grow longer, so compare only equal numbers of tokens. Source: Li et al. 2016, A
Diversity-Promoting Objective Function for Neural Conversation Models.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from saesteer.errors import DataError


def distinct_n(samples: Sequence[str | Sequence[Hashable]], n: int = 2) -> float:
    """Different n-grams divided by all n-grams, over all samples together; 0.0 without any.

    Args:
        samples: texts, split at white space, or lists of tokens.
        n: 1 or more.

    Raises:
        DataError: n is no such number.
    """
    if not isinstance(n, int) or n < 1:
        raise DataError(f"n is {n!r}, expected a whole number of 1 or more.")
    grams: set[tuple[Hashable, ...]] = set()
    total = 0
    for sample in samples:
        tokens: Sequence[Hashable] = sample.split() if isinstance(sample, str) else sample
        count = max(len(tokens) - n + 1, 0)
        grams.update(tuple(tokens[i : i + n]) for i in range(count))
        total += count
    return len(grams) / total if total else 0.0
