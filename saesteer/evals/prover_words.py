"""Words for generated ProverQA problems: predicates put together from parts, and people's names.

A predicate is a verb with its object, an adjective, a noun, or something that one has. Parts are
joined freely, so that there are many thousands; a fifth of the parts and of the names is kept for
tests. All words were chosen for this project.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from saesteer.evals.assets import asset
from saesteer.evals.logic_words import PEOPLE, PROPERTIES

Kind = Literal["verb", "adjective", "noun", "have"]
KINDS: tuple[Kind, ...] = ("verb", "adjective", "noun", "have")
_SHARES = (5, 2, 2, 2)
_TITLES = ("Dr. ", "Mr. ", "Mrs. ", "Professor ", "Captain ", "Chef ")
_PREPOSITIONS = ("with", "of", "about", "for", "in")


@dataclass(frozen=True)
class Predicate:
    """What can be said of one: `head` is a verb, an adjective, a noun or a thing one has."""

    kind: Kind
    head: str
    rest: str = ""

    @property
    def key(self) -> str:
        """The same for all its forms."""
        return f"{self.kind} {self.head} {self.rest}"


def groups() -> Sequence[str]:
    """Whom a general rule may be about."""
    return [f"{noun}s" for noun in _split("nouns")[0] if not noun.endswith(("s", "y", "man"))]


def kept_for_tests(word: str) -> bool:
    """Whether a word is one of the fifth that nothing is ever fitted on."""
    return zlib.crc32(word.encode()) % 5 == 1


def draw_predicates(
    rng: random.Random, n: int, *, new: bool = False, near: float = 0.4
) -> list[Predicate]:
    """Different predicates; a share of them has one part of an earlier one.

    Args:
        new: only of parts that are kept for tests; without it of none of them.
    """
    drawn: dict[Predicate, None] = {}
    while len(drawn) < n:
        known = list(drawn)
        if known and rng.random() < near:
            drawn[_near(rng, rng.choice(known), new)] = None
        else:
            drawn[_predicate(rng, rng.choices(KINDS, _SHARES)[0], new)] = None
    return list(drawn)


def draw_people(rng: random.Random, n: int, *, new: bool = False) -> list[str]:
    """Different names, half of them invented; a few with a title."""
    drawn: dict[str, str] = {}
    while len(drawn) < n:
        name = rng.choice(_listed()["names"]) if rng.random() < 0.5 else _invented(rng)
        if kept_for_tests(name) == new:
            drawn[name] = rng.choice(_TITLES) + name if rng.random() < 0.05 else name
    return list(drawn.values())


def with_article(thing: str) -> str:
    """`a ` or `an ` where something one has is counted, else nothing."""
    if thing.split()[-1] in _listed()["uncounted"]:
        return ""
    return "an" if thing[0] in "aeiou" else "a"


def third(verb: str) -> str:
    """`carries`, `watches`, `plays`."""
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return f"{verb[:-1]}ies"
    return f"{verb}es" if verb.endswith(("s", "x", "z", "ch", "sh", "o")) else f"{verb}s"


def going(verb: str) -> str:
    """`carrying`, `making`; a last consonant is doubled in the short verbs that ask for it."""
    if verb.endswith("e") and not verb.endswith("ee"):
        return f"{verb[:-1]}ing"
    return f"{verb}{verb[-1]}ing" if verb in _DOUBLED else f"{verb}ing"


_DOUBLED = (
    "chat", "clap", "cut", "dig", "drop", "hit", "jog", "plan", "run", "sit", "slip", "spin",
    "spot", "stop", "swim", "win", "wrap",
)  # fmt: skip
"""Verbs whose last consonant is written twice before -ing."""


def _predicate(rng: random.Random, kind: Kind, new: bool) -> Predicate:
    def some(words: str, share: float = 1.0) -> str:
        return _word(rng, words, new) if rng.random() < share else ""

    def joined(*parts: str) -> str:
        return " ".join(part for part in parts if part)

    match kind:
        case "verb":
            things = joined(some("with", 0.3), some("objects"), some("after", 0.15))
            return Predicate(kind, some("verbs"), things)
        case "adjective":
            about = f"{rng.choice(_PREPOSITIONS)} {some('objects')}" if rng.random() < 0.15 else ""
            return Predicate(kind, some("adjectives"), about or some("after", 0.3))
        case "noun":
            return Predicate(kind, joined(some("adjectives", 0.5), some("nouns")))
        case "have":
            return Predicate(kind, joined(some("with", 0.7), some("things")))


def _near(rng: random.Random, known: Predicate, new: bool) -> Predicate:
    """Another predicate with the known one's verb, its object, or its last word."""
    other = _predicate(rng, known.kind, new)
    match known.kind:
        case "verb" if rng.random() < 0.5:
            return Predicate("verb", known.head, other.rest)
        case "verb" | "adjective":
            return Predicate(known.kind, other.head, known.rest)
        case "noun" | "have":
            before = _word(rng, "adjectives" if known.kind == "noun" else "with", new)
            return Predicate(known.kind, f"{before} {known.head.split()[-1]}")


def _word(rng: random.Random, words: str, new: bool) -> str:
    return rng.choice(_split(words)[new])


@cache
def _split(words: str) -> tuple[Sequence[str], Sequence[str]]:
    """A list's words for fitting, and those kept for tests."""
    listed = _listed()[words]
    return (
        tuple(word for word in listed if not kept_for_tests(word)),
        tuple(word for word in listed if kept_for_tests(word)),
    )


@cache
def _listed() -> Mapping[str, Sequence[str]]:
    found = json.loads(asset("prover", "words.json").read_text(encoding="utf-8"))
    found["adjectives"] = sorted({*found["adjectives"], *PROPERTIES})
    found["names"] = sorted({*found["names"], *PEOPLE})
    return found


def _invented(rng: random.Random) -> str:
    starts, middles, ends = (_listed()[part] for part in ("starts", "middles", "ends"))
    between = [rng.choice((*middles, *ends)) for _ in range(rng.choice((0, 1, 1, 1, 2)))]
    return rng.choice(starts) + "".join(between) + rng.choice(ends)
