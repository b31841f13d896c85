"""Trains whose wagons spell a flag: generated, or read from the published Rail2Country files.

Mono trains name their colours, Meta trains name things of a colour, mixed ones do both. Source:
Helff et al. 2025, ActivationReasoning (2510.18184), which publishes a set of the same kind
(AIML-TUDA/Rail2Country); text and things of the generated ones are this project's own.
"""

from __future__ import annotations

import csv
import random
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from saesteer.errors import TaskError
from saesteer.evals.questions import Question
from saesteer.evals.train_words import (
    CARS,
    COLOURS,
    COUNTRIES,
    EXTRAS,
    FLAGS,
    OPENINGS,
    ORDINALS,
    PLAIN,
    TAILS,
    WORDINGS,
    Part,
    things,
)

Style = Literal["mono", "meta", "mixed"]
STYLES: tuple[Style, ...] = get_args(Style)
HUB, HUB_FILES = "AIML-TUDA/Rail2Country", {"mono": "Mono/test.csv", "meta": "Meta/test.csv"}
ASK = "Which country's flag does the train wear?"
_ENDING = re.compile(r"\s*Due to the train.*$", re.DOTALL)
Span = tuple[int, int]


@dataclass(frozen=True)
class Train:
    """One train: its text, and where each wagon's colour is told, in characters.

    Attributes:
        country: whose flag the colours are, "" for one that is only read.
    """

    id: str
    text: str
    country: str
    style: Style
    colours: tuple[str, ...]
    told: tuple[Span, ...]

    def question(self) -> Question:
        """The train with what is asked about it."""
        return Question(self.id, self.text, ASK, COUNTRIES, self.country, group=self.style)


def generate_trains(
    n: int, style: Style, part: Part, seed: int = 0, *, flags: bool = True
) -> list[Train]:
    """`n` trains, countries in turn; every thing is used before one comes again.

    Args:
        flags: without it colours are drawn evenly and belong to no country.
    """
    rng, found = random.Random(f"{seed} {style} {part}"), things(part)
    decks: dict[str, list[str]] = {colour: [] for colour in found}
    made: list[Train] = []
    for index in range(n):
        country = COUNTRIES[index % len(COUNTRIES)] if flags else ""
        colours = FLAGS[country] if flags else tuple(rng.choices(COLOURS, k=3))
        plain = _plain_wagons(style, rng)
        words = [
            rng.choice(PLAIN[colour]) if place in plain else _draw(decks, found, colour, rng)
            for place, colour in enumerate(colours)
        ]
        text, told = _describe(rng, part, words, plain)
        made.append(Train(f"{style}-{part}-{seed}-{index}", text, country, style, colours, told))
    return made


def _describe(
    rng: random.Random, part: Part, words: Sequence[str], plain: Sequence[int]
) -> tuple[str, tuple[Span, ...]]:
    text, told = rng.choice(OPENINGS[part]), list[Span]()
    for place, (ordinal, word) in enumerate(zip(ORDINALS, words, strict=True)):
        wagon, (start, end) = _wagon(rng, part, ordinal, word, place in plain)
        text += " "
        told.append((len(text) + start, len(text) + end))
        text += wagon
    return text, tuple(told)


def _plain_wagons(style: Style, rng: random.Random) -> Sequence[int]:
    match style:
        case "mono":
            return (0, 1, 2)
        case "meta":
            return ()
        case "mixed":
            return rng.sample(range(3), rng.randint(1, 2))


def _draw(
    decks: dict[str, list[str]],
    found: Mapping[str, Sequence[str]],
    colour: str,
    rng: random.Random,
) -> str:
    if not decks[colour]:
        decks[colour] = rng.sample(found[colour], len(found[colour]))
    return decks[colour].pop()


def _wagon(
    rng: random.Random, part: Part, ordinal: str, word: str, plain: bool
) -> tuple[str, Span]:
    """A wagon's sentences, and where the colour stands in them."""
    form = rng.choice(WORDINGS[part])[0 if plain else 1]
    before, after = form.format(n=ordinal, car=rng.choice(CARS[part]), c="|").split("|")
    told = f"{before}{word}{after}{rng.choice(TAILS[part])}."
    extras = rng.sample(EXTRAS[part], rng.randint(0, 2))
    return " ".join([told, *extras]), (len(before), len(before) + len(word))


def read_trains(path: str | Path, group: str = "file") -> list[Question]:
    """Trains of a published CSV file with the columns prompt and label.

    Raises:
        TaskError: a file that can't be read, or a row without a prompt or a known country.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TaskError(f"trains {path} can't be read: {error}.") from error
    if not rows:
        raise TaskError(f"trains {path}: expected rows of prompt and label, got none.")
    return [_published(row, f"{path}, row {n}", group) for n, row in enumerate(rows, 1)]


def _published(row: Mapping[str, str | None], where: str, group: str) -> Question:
    prompt, label = row.get("prompt") or "", (row.get("label") or "").strip()
    country = label.removeprefix("the ").removeprefix("The ")
    if country not in FLAGS:
        raise TaskError(f"{where}: label is {label!r}; expected one of {', '.join(COUNTRIES)}.")
    context = " ".join(_ENDING.sub("", prompt).split())
    if not context:
        raise TaskError(f"{where}: prompt is {prompt!r}; expected the description of a train.")
    return Question(where, context, ASK, COUNTRIES, country, group=group)


def published_trains(n: int | None) -> list[Question] | None:
    """The first `n` published test trains of each kind; None where the hub is out of reach."""
    from huggingface_hub import hf_hub_download

    try:
        with socket.create_connection(("huggingface.co", 443), timeout=3):
            pass
        files = {
            group: hf_hub_download(HUB, name, repo_type="dataset")
            for group, name in HUB_FILES.items()
        }
    except OSError:
        return None
    return [question for group, file in files.items() for question in read_trains(file, group)[:n]]
