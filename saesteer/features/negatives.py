"""Negatives for concepts whose texts only show them: texts of other concepts, half of them near.

Far texts teach a readout the topic, near ones the concept. Only train negatives are chosen for
being near; validation and test negatives are drawn, so that their scores mean what they say.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from saesteer.data.concept_data import ConceptData
from saesteer.data.contrast import SPLITS, Example, Split
from saesteer.errors import ContrastError
from saesteer.features.concept_rows import Key

PER_POSITIVE = 2
"""Negatives for each positive text, where there are so many."""
HARD = 0.5
"""Share of the train negatives that are the nearest ones."""


def add_negatives(
    data: ConceptData, others: Sequence[ConceptData], seen: Mapping[Key, Tensor], seed: int = 0
) -> ConceptData:
    """The concept with negatives from other concepts' positive texts, each in its own split.

    Args:
        seen: activations by prompt and text.

    Raises:
        ContrastError: there is no other concept to take them from.
    """
    own = {(example.prompt, example.text) for example in data.examples}
    candidates = {
        (example.prompt, example.text): replace(example, label=0, pair=None)
        for other in others
        for example in other.examples
        if example.label == 1 and (example.prompt, example.text) not in own
    }
    if not candidates:
        raise ContrastError(
            f"concept {data.name} has no text without it; give lines with label 0, or other "
            "concepts to take them from."
        )
    found: list[Example] = []
    for split in SPLITS:
        positives = [e for e in data.examples if e.split == split]
        found += _of_split(positives, list(candidates.values()), seen, split, seed)
    return replace(data, examples=(*data.examples, *found))


def _of_split(
    positives: Sequence[Example],
    candidates: Sequence[Example],
    seen: Mapping[Key, Tensor],
    split: Split,
    seed: int,
) -> list[Example]:
    pool = [example for example in candidates if example.split == split]
    random.Random(seed).shuffle(pool)
    n = min(len(pool), PER_POSITIVE * len(positives))
    if split != "train" or n == len(pool) or not positives:
        return pool[:n]

    def means(examples: Sequence[Example]) -> Tensor:
        return torch.stack([seen[e.prompt, e.text].mean(0) for e in examples])

    rows = means(pool)
    centre = rows.mean(0)
    towards = means(positives).mean(0) - centre
    near = functional.cosine_similarity(rows - centre, towards[None]).argsort(descending=True)
    hard = near[: round(HARD * n)].tolist()
    rest = [index for index in range(len(pool)) if index not in set(hard)]
    return [pool[index] for index in (*hard, *rest[: n - len(hard)])]
