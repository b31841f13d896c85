"""Absorption of first letters, the case where the literature finds it.

Words that are one token of the model's own vocabulary, each behind a prompt that asks for first
letters, are read at that token; each letter is a concept against the other letters. Chanin et al.
2024 find letters absorbed in every SAE they look at; if this finds none, doubt the measure first.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from saesteer.data.contrast import Contrast, Example, Split
from saesteer.errors import DataError
from saesteer.evals.absorption import Absorption, measure_absorption
from saesteer.evals.pooled import Pooled, Progress, pool_concepts
from saesteer.evals.probing import dense_probe
from saesteer.features.lens import token_text
from saesteer.models import Model, as_model
from saesteer.saes.load import check_width
from saesteer.saes.sae import SAE

PROMPT = "mirth has the first letter: M\n"
"""The example before every word, in the form of SAEBench's prompts."""

WORDS_PER_LETTER = 120
MIN_WORDS = 30
"""Of a letter; a letter with fewer is left out: six test words say little as it is."""


@dataclass(frozen=True)
class LetterAbsorption:
    """Absorption of every letter with enough words."""

    letters: tuple[Absorption, ...]

    def mean(self, name: str) -> float | None:
        """Mean of one figure over all judged words; None without any."""
        judged = [letter for letter in self.letters if letter.n_judged]
        total = sum(letter.n_judged for letter in judged)
        return sum(getattr(a, name) * a.n_judged for a in judged) / total if total else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "n_judged": sum(letter.n_judged for letter in self.letters),
            **{n: self.mean(n) for n in ("silent", "absorbed", "absorption_fraction")},
            "letters": [letter.to_dict() for letter in self.letters],
        }


def first_letters(
    model: Model | Any,
    sae: SAE,
    *,
    words_per_letter: int = WORDS_PER_LETTER,
    seed: int = 0,
    progress: Progress | None = None,
) -> LetterAbsorption:
    """Measure absorption on the first letters of words drawn from the vocabulary.

    Raises:
        DataError: fewer than two letters have enough words that are one token.
        DimensionError: the SAE does not fit the model.
    """
    model = as_model(model)
    check_width(sae, model)
    sae = sae.to(device=model.device)
    words = _draw(vocabulary_words(model), words_per_letter, seed)
    if len(words) < 2:
        raise DataError(
            f"{model.name} has too few words of one token for first letters: "
            f"{len(words)} letters have {MIN_WORDS} or more."
        )
    examples = tuple(e for letter in sorted(words) for e in _examples(words[letter], min(words)))
    pooled = pool_concepts(model, sae, None, [Contrast(examples, "words")], progress=progress)[0]
    initials = [_initial(example.text) for example in examples]
    return LetterAbsorption(
        tuple(_measure(pooled, letter, initials, sae) for letter in sorted(words))
    )


def vocabulary_words(model: Model) -> dict[str, str]:
    """Lower-case words of three ASCII letters or more that are one token behind the prompt, each
    with the text that this token is: it begins with a space, unless the tokenizer adds one itself.

    Raises:
        ModelError: the model has no tokenizer.
    """
    tokenizer = model.need_tokenizer()
    tokens: dict[str, int] = {}
    for token in range(len(tokenizer)):
        text = token_text(model, token)
        word = text[1:]
        if text[:1] == " " and len(word) >= 3 and word.isascii() and word.isalpha():
            tokens[word] = token
    found: dict[str, str] = {}
    for space in (" ", ""):
        words = [word for word in tokens if word.islower() and word not in found]
        texts = [space + word for word in words]
        rows = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        for word, text, ids in zip(words, texts, rows, strict=True):
            if list(ids) == [tokens[word]]:
                found[word] = text
    return found


def _draw(words: Mapping[str, str], n: int, seed: int) -> dict[str, list[str]]:
    """The texts of up to `n` words of each letter that has enough of them, shuffled."""
    groups: dict[str, list[str]] = defaultdict(list)
    for word in sorted(words):
        groups[word[0]].append(words[word])
    rng = random.Random(seed)
    enough = {letter: group for letter, group in groups.items() if len(group) >= MIN_WORDS}
    return {letter: rng.sample(group, min(n, len(group))) for letter, group in enough.items()}


def _examples(texts: list[str], positive: str) -> list[Example]:
    """Three in five words for training, one for validation, one for the test.

    Positive are the words that begin with `positive`; every letter gets its own labels later.
    """
    splits: tuple[Split, ...] = ("train", "train", "train", "validation", "test")
    return [
        Example(text, int(_initial(text) == positive), splits[rank % 5], prompt=PROMPT)
        for rank, text in enumerate(texts)
    ]


def _initial(text: str) -> str:
    return text.lstrip()[0]


def _measure(pooled: Pooled, letter: str, initials: list[str], sae: SAE) -> Absorption:
    positive = torch.tensor([initial == letter for initial in initials])
    concept = replace(pooled, name=letter, positive=positive)
    return measure_absorption(concept, dense_probe(concept), sae.w_dec)
