"""Words for generated logic problems: kinds, plain properties and people's names.

Kinds are invented, letter group by letter group, so that a problem can be made of names that
nothing was fitted on, or plain nouns; the ten that the published PrOntoQA problems use are one
drawing among others.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from saesteer.evals.assets import asset

Style = Literal["published", "like", "near", "invented", "noun"]
"""Kinds of the published problems, ones that sound like them, that look alike, any, or nouns."""

PUBLISHED_KINDS = (
    "wumpus", "yumpus", "zumpus", "dumpus", "rompus",
    "numpus", "tumpus", "vumpus", "impus", "jompus",
)  # fmt: skip
_ONSETS = (
    "b", "bl", "br", "c", "ch", "cl", "cr", "d", "dr", "f", "fl", "fr", "g", "gl", "gr", "h", "j",
    "k", "kl", "l", "m", "n", "p", "pl", "pr", "qu", "r", "s", "sc", "sh", "sk", "sl", "sm", "sn",
    "sp", "st", "str", "sw", "t", "th", "tr", "tw", "v", "w", "wh", "y", "z", "",
)  # fmt: skip
_LIKE_ENDS = ("umpus", "ompus", "impus", "ampus", "empus", "orpus", "urpus", "elpus", "olpus")
_NEAR_MIDDLES = (
    "mp", "lp", "rp", "sp", "nd", "nt", "nk", "mb", "lt", "rt", "rd", "st", "sk", "ft", "ff", "bb",
)  # fmt: skip
_NUCLEI = ("a", "e", "i", "o", "u", "ai", "ee", "oa", "oo", "ou")
_MIDDLES = ("b", "bb", "d", "ff", "g", "l", "lp", "mb", "mp", "n", "nt", "rb", "rp", "st", "t", "v")
_ENDS = ("us", "in", "ent", "ax", "or", "il", "le", "ock", "ard", "et", "on", "ish", "um", "ot")
PEOPLE = (
    "Alex", "Fae", "Max", "Polly", "Rex", "Sally", "Sam", "Stella", "Wren", "Ada", "Bruno",
    "Clara", "Dora", "Edgar", "Fiona", "Gus", "Hazel", "Ivan", "Jonas", "Kira", "Leo", "Mona",
    "Nils", "Oscar", "Petra", "Quinn", "Rosa", "Simon", "Tessa", "Ursula", "Victor", "Wanda",
    "Yara", "Zoe", "Abel", "Beth", "Colin", "Daisy", "Emil", "Felix", "Grace", "Hugo", "Iris",
    "Jack", "Karl", "Lucy", "Mark", "Nora", "Otto", "Paul", "Ruth", "Sven", "Tom", "Vera", "Will",
)  # fmt: skip
PROPERTIES = (
    "aggressive", "amenable", "angry", "bitter", "blue", "bright", "brown", "cold", "dull",
    "earthy", "feisty", "floral", "fruity", "happy", "hot", "kind", "large", "liquid", "luminous",
    "mean", "metallic", "nervous", "opaque", "orange", "red", "shy", "small", "sour", "spicy",
    "sweet", "temperate", "transparent", "wooden", "brave", "calm", "careful", "clever", "clumsy",
    "cruel", "curious", "damp", "dark", "dry", "dusty", "eager", "faint", "fast", "fierce", "flat",
    "fluffy", "fragile", "fresh", "friendly", "furry", "gentle", "glossy", "golden", "greedy",
    "green", "hairy", "hard", "heavy", "hollow", "honest", "hungry", "icy", "jealous", "lazy",
    "light", "lively", "lonely", "loud", "loyal", "lucky", "magnetic", "mild", "muddy", "narrow",
    "noisy", "old", "pale", "patient", "pink", "plain", "playful", "polite", "proud", "purple",
    "quick", "quiet", "rare", "rough", "round", "rude", "rusty", "salty", "sharp", "shiny",
    "silent", "sleepy", "slow", "smooth", "soft", "solid", "square", "sticky", "strict", "strong",
    "sturdy", "tall", "thick", "thin", "timid", "tiny", "tired", "tough", "warm", "weak", "wet",
    "white", "wide", "wild", "wise", "yellow", "young",
)  # fmt: skip
PUBLISHED_PROPERTIES = PROPERTIES[:33]
PUBLISHED_PEOPLE = PEOPLE[:9]


@dataclass(frozen=True)
class Words:
    """What one problem is written with; no word is another's."""

    kinds: tuple[str, ...]
    properties: tuple[str, ...]
    people: tuple[str, ...]


def kept_for_tests(kind: str) -> bool:
    """Whether a name is one of the fifth that, but for published ones, nothing is fitted on."""
    return zlib.crc32(kind.encode()) % 5 == 0


def draw_words(
    rng: random.Random, style: Style, n_kinds: int, n_properties: int, *, new: bool = False
) -> Words:
    """Words for one problem; two people, since one of them may be a distractor.

    Args:
        new: only kinds that are kept for tests; without it none of them. The published kinds, all
            of which are fitted on, are never new.
    """
    published = style == "published" and n_kinds <= len(PUBLISHED_KINDS)
    kinds = rng.sample(PUBLISHED_KINDS, n_kinds) if published else _kinds(rng, style, n_kinds, new)
    properties = PUBLISHED_PROPERTIES if published else PROPERTIES
    people = PUBLISHED_PEOPLE if published else PEOPLE
    return Words(tuple(kinds), _some(rng, properties, n_properties), _some(rng, people, 2))


def plural(kind: str) -> str:
    """`wumpuses`, `blents`, `daisies`."""
    if kind.endswith("y") and kind[-2:-1] not in tuple("aeiou"):
        return f"{kind[:-1]}ies"
    hissing = kind.endswith(("s", "x", "z", "ch", "sh"))
    return f"{kind}es" if hissing else f"{kind}s"


def with_article(kind: str) -> str:
    """`a wumpus`, `an impus`."""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _kinds(rng: random.Random, style: Style, n: int, new: bool) -> list[str]:
    draw = {"invented": _invented, "near": _near, "noun": _noun}.get(style, _like)
    kinds: dict[str, None] = {}
    while len(kinds) < n:
        kind = draw(rng)
        if kept_for_tests(kind) == new and not (new and kind in PUBLISHED_KINDS):
            kinds[kind] = None
    return list(kinds)


def _like(rng: random.Random) -> str:
    return rng.choice(_ONSETS) + rng.choice(_LIKE_ENDS)


def _near(rng: random.Random) -> str:
    return rng.choice(_ONSETS) + rng.choice(_NUCLEI[:5]) + rng.choice(_NEAR_MIDDLES) + "us"


def _invented(rng: random.Random) -> str:
    stem = rng.choice(_ONSETS[:-1]) + rng.choice(_NUCLEI) + rng.choice(_MIDDLES)
    return stem + rng.choice(_ENDS)


def _noun(rng: random.Random) -> str:
    return rng.choice(_nouns())


@cache
def _nouns() -> list[str]:
    return json.loads(asset("nouns.json").read_text(encoding="utf-8"))


def _some(rng: random.Random, words: Sequence[str], n: int) -> tuple[str, ...]:
    return tuple(rng.sample(words, n))
