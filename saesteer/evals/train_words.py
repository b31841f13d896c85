"""Words for generated trains: flags, colours, things of a colour, and how a wagon is described.

Things that fitting sees and things that tests use share no word but small ones, and neither do they
share a wording. The things for tests are the twelve a colour that came to mind first, set down
before anything was measured; those for fitting are the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Literal

from saesteer.evals.assets import asset

Part = Literal["fit", "test"]
COLOURS = ("red", "blue", "white", "green", "yellow", "black", "orange")
FLAGS: Mapping[str, tuple[str, str, str]] = {
    "Argentina": ("blue", "white", "blue"),
    "Austria": ("red", "white", "red"),
    "Belgium": ("black", "yellow", "red"),
    "Bulgaria": ("white", "green", "red"),
    "Egypt": ("red", "white", "black"),
    "France": ("blue", "white", "red"),
    "Germany": ("black", "red", "yellow"),
    "Hungary": ("red", "white", "green"),
    "Ireland": ("green", "white", "orange"),
    "Italy": ("green", "white", "red"),
    "Mongolia": ("red", "blue", "red"),
    "Netherlands": ("red", "white", "blue"),
    "Nigeria": ("green", "white", "green"),
    "Romania": ("blue", "yellow", "red"),
    "Spain": ("red", "yellow", "red"),
}
"""The fifteen flags of the published set, where Germany's gold is told from no other yellow."""
COUNTRIES = tuple(FLAGS)
PLAIN: Mapping[str, tuple[str, ...]] = {c: (c,) for c in COLOURS} | {"yellow": ("yellow", "gold")}
"""Words for a colour itself."""

CARS: Mapping[Part, tuple[str, ...]] = {
    "fit": ("wagon", "car", "coach"),
    "test": ("carriage", "car"),
}
WORDINGS: Mapping[Part, tuple[tuple[str, str], ...]] = {
    "fit": (
        ("The {n} {car} is painted {c}", "The {n} {car} is painted like {c}"),
        ("The {n} {car} has a {c} coat", "The {n} {car} has a coat the colour of {c}"),
        ("The {n} {car} shines {c}", "The {n} {car} shines like {c}"),
        ("The {n} {car} comes in {c}", "The {n} {car} comes in the colour of {c}"),
        ("The sides of the {n} {car} are {c}", "The sides of the {n} {car} look like {c}"),
        ("Someone has sprayed the {n} {car} {c}", "The {n} {car} is as colourful as {c}"),
        ("The {n} {car} was given {c} paint", "The {n} {car} was given paint that recalls {c}"),
        ("The {n} {car} is {c}", "The {n} {car} is like {c}"),
        ("The colour of the {n} {car} is {c}", "The colour of the {n} {car} is that of {c}"),
        ("The {n} {car} is decorated in {c}", "The {n} {car} is decorated to resemble {c}"),
    ),
    "test": (
        ("The {n} {car} is coloured {c}", "The {n} {car} is coloured like {c}"),
        ("The {n} {car} wears {c}", "The {n} {car} wears the hue of {c}"),
        ("The {n} {car} is lacquered {c}", "The {n} {car} is lacquered to look like {c}"),
    ),
}
"""By part, pairs of wordings: for a colour word and for a thing of that colour."""
TAILS: Mapping[Part, tuple[str, ...]] = {
    "fit": (
        "",
        " and has a long frame",
        " and runs on two axles",
        ", with a flat roof",
        ", has a full wall and two wheels",
        " but has no roof",
        ", which is rather short",
    ),
    "test": (" and built on a short chassis", " and stands on three axles", ""),
}
EXTRAS: Mapping[Part, tuple[str, ...]] = {
    "fit": (
        "It has a full wall.", "Its roof is peaked.", "It runs on three axles.",
        "It carries two barrels.", "Nothing is loaded.", "Its frame is short.",
        "It is filled with crates.", "A rail runs along its sides.", "It hauls four pipes.",
    ),
    "test": (
        "It holds three statues.", "Its wall is a low fence.", "It is topped by a round roof.",
        "There is no cargo in it.", "It transports a few letters.",
    ),
}  # fmt: skip
"""Sentences about a wagon that say nothing of its colour."""
OPENINGS: Mapping[Part, tuple[str, ...]] = {
    "fit": ("A train of three cars rolls by.", "Here comes a train.", "Look at this train."),
    "test": ("I see a train that is made up of three cars.", "A short train waits here."),
}
ORDINALS = ("first", "second", "third")
_SMALL = frozenset(
    "a an the of in on at from with to for and by over that his her its up off".split()  # noqa: SIM905
)


def things(part: Part) -> Mapping[str, tuple[str, ...]]:
    """Things by their colour."""
    found = json.loads(asset("trains", "things.json").read_text(encoding="utf-8"))
    return {colour: tuple(found[colour][part]) for colour in COLOURS}


def content_words(thing: str) -> frozenset[str]:
    """Its words without small ones and plural endings, by which two lists are kept apart."""
    words = (re.sub(r"(ies|es|s)$", "", word) for word in re.findall("[a-z]+", thing.lower()))
    return frozenset(word for word in words if word not in _SMALL and len(word) > 2)
