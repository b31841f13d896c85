"""Words for generated ProverQA problems: predicates put together from parts, and people's names.

A predicate is a verb with its object, an adjective, a noun, or something that one has. Parts are
joined freely, so that there are many thousands; a fifth of the parts and of the names is kept for
tests, and a tenth for setting the cuts between predicates. All words were chosen for this project.
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

Use = Literal["fit", "cuts", "tests"]
"""What a word is for: fitting maps, setting the cuts between predicates, or tests."""
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
    return [f"{noun}s" for noun in _for("nouns", "fit") if not noun.endswith(("s", "y", "man"))]


def use_of(word: str) -> Use:
    """The one use that a word is for."""
    match zlib.crc32(word.encode()) % 10:
        case 1 | 6:
            return "tests"
        case 2:
            return "cuts"
        case _:
            return "fit"


def draw_predicates(
    rng: random.Random, n: int, use: Use = "fit", *, near: float = 0.4
) -> list[Predicate]:
    """Different predicates of one use's words; a share of them has a part of an earlier one."""
    drawn: dict[Predicate, None] = {}
    while len(drawn) < n:
        known = list(drawn)
        if known and rng.random() < near:
            drawn[_near(rng, rng.choice(known), use)] = None
        else:
            drawn[_predicate(rng, rng.choices(KINDS, _SHARES)[0], use)] = None
    return list(drawn)


def draw_people(rng: random.Random, n: int, use: Use = "fit") -> list[str]:
    """Different names, half of them invented; a few with a title."""
    drawn: dict[str, str] = {}
    while len(drawn) < n:
        name = rng.choice(_listed()["names"]) if rng.random() < 0.5 else _invented(rng)
        if use_of(name) == use:
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
    "begin", "chat", "clap", "cut", "dig", "drop", "forget", "hit", "jog", "plan", "run", "sit",
    "slip", "spin", "spot", "stop", "submit", "swim", "trap", "upset", "win", "wrap",
)  # fmt: skip
"""Verbs whose last consonant is written twice before -ing."""


def _predicate(rng: random.Random, kind: Kind, use: Use) -> Predicate:
    def some(words: str, share: float = 1.0) -> str:
        return _word(rng, words, use) if rng.random() < share else ""

    def joined(*parts: str) -> str:
        return " ".join(one for one in parts if one)

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


def _near(rng: random.Random, known: Predicate, use: Use) -> Predicate:
    """Another predicate with the known one's verb, its object, or its last word."""
    other = _predicate(rng, known.kind, use)
    match known.kind:
        case "verb" if rng.random() < 0.5:
            return Predicate("verb", known.head, other.rest)
        case "verb" | "adjective":
            return Predicate(known.kind, other.head, known.rest)
        case "noun" | "have":
            before = _word(rng, "adjectives" if known.kind == "noun" else "with", use)
            return Predicate(known.kind, f"{before} {known.head.split()[-1]}")


def _word(rng: random.Random, words: str, use: Use) -> str:
    return rng.choice(_for(words, use))


@cache
def _for(words: str, use: Use) -> Sequence[str]:
    """A list's words for one use."""
    return tuple(word for word in _listed()[words] if use_of(word) == use)


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
