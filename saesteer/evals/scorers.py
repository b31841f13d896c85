"""Scorers: text in, one number out, more of the wanted behaviour for a larger number.

They are plain rules (VADER, word lists, phrases), not model judges, so a score needs no network,
never drifts, and can be recomputed by hand from the samples printed in the report. What a word list
can't see is a page of repeated words; hence the clip, and distinct-2 beside every score.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol, final, runtime_checkable

from saesteer.errors import TaskError

RATE_CLIP = 3.0
"""Largest absolute lexicon rate, in hits per 10 words; beyond it a text only repeats itself."""


@runtime_checkable
class Scorer(Protocol):
    """A score for one text; `unit` says what it counts."""

    @property
    def unit(self) -> str:
        """What one unit of the score is, for axis labels."""
        ...

    def __call__(self, text: str) -> float:
        """The score of `text`; an empty text scores 0."""
        ...


@final
@dataclass(frozen=True)
class VaderCompound:
    """VADER's compound sentiment, -1 to 1. Source: Hutto and Gilbert 2014."""

    unit: str = "VADER compound"

    def __call__(self, text: str) -> float:
        """The compound score of `text`."""
        return float(_vader().polarity_scores(text)["compound"])


@final
@dataclass(frozen=True)
class LexiconRate:
    """Hits of `positive` minus hits of `negative` per 10 words, clipped to ±`RATE_CLIP`.

    Entries are words or phrases, matched whole and without regard to case.
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()
    unit: str = "words of the lexicon per 10 words"

    def __post_init__(self) -> None:
        """Refuse a lexicon with nothing to find.

        Raises:
            TaskError: no positive entry.
        """
        if not self.positive:
            raise TaskError("lexicon scorer: positive is empty; give at least one word.")

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        return _phrases(self.positive), _phrases(self.negative)

    def __call__(self, text: str) -> float:
        """The clipped rate of `text`."""
        n_words = len(re.findall(r"\w+(?:['’]\w+)*", text))
        if n_words == 0:
            return 0.0
        wanted, unwanted = (len(p.findall(text)) for p in self._patterns)
        rate = 10 * (wanted - unwanted) / n_words
        return max(-RATE_CLIP, min(RATE_CLIP, rate))


@final
@dataclass(frozen=True)
class PhrasePresent:
    """1 where any of the phrases occurs, else 0."""

    phrases: tuple[str, ...]
    unit: str = "share of texts with such a phrase"

    def __post_init__(self) -> None:
        """Refuse a list with nothing to find.

        Raises:
            TaskError: no phrase.
        """
        if not self.phrases:
            raise TaskError("phrase scorer: phrases is empty; give at least one phrase.")

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return _phrases(self.phrases)

    def __call__(self, text: str) -> float:
        """1.0 or 0.0."""
        return float(self._pattern.search(text) is not None)


SCORERS = ("vader", "lexicon", "phrase")
"""Kinds of scorer that a task file may name."""


def build_scorer(kind: str, lexicon: dict[str, Any] | None = None) -> Scorer:
    """The scorer of a kind; `lexicon` holds lists under `positive` and `negative`.

    Raises:
        TaskError: an unknown kind, or a lexicon that is not made of lists of texts.
    """
    words = lexicon or {}
    match kind:
        case "vader":
            return VaderCompound()
        case "lexicon":
            return LexiconRate(_texts(words, "positive"), _texts(words, "negative"))
        case "phrase":
            return PhrasePresent(_texts(words, "positive"))
        case _:
            raise TaskError(f"scorer {kind!r} does not exist; choose from {', '.join(SCORERS)}.")


def _texts(words: dict[str, Any], key: str) -> tuple[str, ...]:
    entries = words.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(e, str) and e for e in entries):
        raise TaskError(f"scorer: {key} is {entries!r}; expected a list of words or phrases.")
    return tuple(entries)


def _phrases(entries: Iterable[str]) -> re.Pattern[str]:
    """One pattern for all entries, longest first; typographic apostrophes match plain ones."""
    longest_first = sorted(set(entries), key=len, reverse=True)
    bodies = [re.escape(e).replace("’", "'").replace("'", "['’]") for e in longest_first]
    if not bodies:
        return re.compile(r"(?!)")
    return re.compile(rf"(?<!\w)(?:{'|'.join(bodies)})(?!\w)", re.IGNORECASE)


@lru_cache(maxsize=1)
def _vader() -> Any:
    """The analyser; building it reads a 7,500-line lexicon, so once a process."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
