"""Labelled texts that do or don't show a behaviour, and their split, which never breaks a pair.

The unusual part: examples are split by pair (by order where a file names no pairs), so a text and
its counterpart always fall on the same side and nothing learnt on one half leaks into the other.
A `Contrast` in hand is never empty, one-sided or the same on both sides; whatever would make it so
is an error.
"""

from __future__ import annotations

import difflib
import functools
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

from saesteer.errors import ContrastError, none_such
from saesteer.files import lines_of, parse_json, path_of
from saesteer.models.limits import is_whole
from saesteer.shown import shown

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_T = TypeVar("_T")
_KEYS = ("text", "label", "split", "pair", "prompt")
HELD_OUT_SHARE = 0.2
"""Share of the pairs that validation and test each get when a file names no split."""


@dataclass(frozen=True)
class Example:
    """One text with its label: 1 shows the behaviour, 0 does not.

    `prompt` is a prefix the model reads before `text`, whose own tokens are never scored or read.
    """

    text: str
    label: int
    split: Split = "train"
    pair: str | None = None
    prompt: str | None = None


@shown
@dataclass(frozen=True)
class Contrast:
    """Examples of both labels, in the order of their file.

    Raises:
        ContrastError: no examples, examples of one label only, or the same texts under both labels.
    """

    examples: tuple[Example, ...]
    name: str = "contrast"

    def __post_init__(self) -> None:
        if not self.examples:
            raise ContrastError(f"{self.name}: it has no examples; give texts of both labels.")
        labels = {example.label for example in self.examples}
        if len(labels) == 1:
            raise ContrastError(
                f"{self.name}: all {len(self)} examples have label {labels.pop()}; "
                "a contrast needs both 1 and 0."
            )
        for example in self.examples:
            if example.label not in (0, 1) or example.split not in SPLITS:
                raise ContrastError(
                    f"{self.name}: an example of label {example.label!r} in split "
                    f"{example.split!r}; labels are 1 and 0, splits {', '.join(SPLITS)}."
                )
            if not is_whole((example.prompt or "") + example.text):
                raise ContrastError(f"{self.name}: {example.text[:40]!a} holds half a character.")
        sides = [{(e.prompt, e.text) for e in side} for side in (self.positives, self.negatives)]
        if sides[0] == sides[1]:
            raise ContrastError(
                f"{self.name}: positives and negatives are the same texts, so nothing tells "
                "them apart; check the labels."
            )

    @classmethod
    def read(cls, ref: str | Path, *, seed: int = 0) -> Contrast:
        """Read a JSONL file, or one of the contrasts that ship with the package, by name.

        Each line is `{"text", "label": 1|0, "split"?, "pair"?, "prompt"?}`; other keys are left
        unread, but for one that looks like a slip. Examples without a split get a seeded one.

        Raises:
            ContrastError: no such file or name, or a line that can't be used; the text names both.
        """
        name, content = _content(ref)
        lines = lines_of(content)
        rows = [_parse(f"{name}, line {n}", line) for n, line in lines]
        return cls(_with_splits(rows, seed, name), name=name)

    @classmethod
    def from_texts(
        cls,
        positives: Iterable[str],
        negatives: Iterable[str],
        *,
        prompt: str | None = None,
        name: str = "contrast",
        seed: int = 0,
    ) -> Contrast:
        """Build a contrast from two lists of texts, paired by order and split by `seed`.

        Raises:
            ContrastError: a text in the place of a list, or lists that make no contrast.
        """
        if isinstance(positives, str) or isinstance(negatives, str):
            raise ContrastError(f"{name}: give a list of positive texts and one of negative ones.")
        sides: tuple[tuple[int, Iterable[str]], ...] = ((1, positives), (0, negatives))
        rows = [(Example(t, label, prompt=prompt), False) for label, side in sides for t in side]
        return cls(_with_splits(rows, seed, name), name=name)

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def positives(self) -> tuple[Example, ...]:
        """Examples of label 1, in order."""
        return tuple(example for example in self.examples if example.label == 1)

    @property
    def negatives(self) -> tuple[Example, ...]:
        """Examples of label 0, in order."""
        return tuple(example for example in self.examples if example.label == 0)

    def split(self, name: str) -> Contrast:
        """The examples of one split.

        Raises:
            ContrastError: an unknown split, or one without examples of both labels.
        """
        if name not in SPLITS:
            raise ContrastError(f"split {name!r} does not exist; choose from {', '.join(SPLITS)}.")
        kept = tuple(example for example in self.examples if example.split == name)
        return Contrast(kept, name=f"{self.name} ({name} split)")

    def pairs(self) -> list[tuple[Example, Example]]:
        """Positives beside their negatives: by pair id, and by order among those without one.

        Raises:
            ContrastError: no pair id occurs with both labels.
        """
        groups: dict[str | None, list[Example]] = defaultdict(list)
        for example in self.examples:
            groups[example.pair].append(example)
        paired = [pair for group in groups.values() for pair in _zip_labels(group)]
        if not paired:
            raise ContrastError(
                f"{self.name}: no pair id occurs with both labels; "
                "give counterparts the same id, or leave the ids out to pair by order."
            )
        return paired


def as_contrast(given: object) -> Contrast:
    """`given` itself; raises ContrastError where it is no contrast but, say, the name of one."""
    if not isinstance(given, Contrast):
        raise ContrastError(none_such(given, "contrast", "Contrast.read"))
    return given


def needs_contrast(function: Callable[..., _T]) -> Callable[..., _T]:
    """A `fit(self, model, contrast, ...)` that refuses what is no contrast, as `as_contrast`."""

    @functools.wraps(function)
    def checked(self: Any, model: Any, contrast: Any, *args: Any, **kwargs: Any) -> _T:
        return function(self, model, as_contrast(contrast), *args, **kwargs)

    return checked


def builtin_contrasts() -> tuple[str, ...]:
    """Names of the contrasts that ship with the package, sorted."""
    folder = resources.files("saesteer") / "assets" / "contrasts"
    if not folder.is_dir():
        return ()
    names = (Path(entry.name) for entry in folder.iterdir())
    return tuple(sorted(name.stem for name in names if name.suffix == ".jsonl"))


def _zip_labels(group: Sequence[Example]) -> list[tuple[Example, Example]]:
    sides = ([e for e in group if e.label == label] for label in (1, 0))
    return list(zip(*sides, strict=False))


def _content(ref: str | Path) -> tuple[str, str]:
    """Display name and text of a file, or of a built-in when no file has that name."""
    path = path_of(ref, ContrastError)
    if not path.is_file() and str(ref) in builtin_contrasts():
        asset = resources.files("saesteer") / "assets" / "contrasts" / f"{ref}.jsonl"
        return str(ref), asset.read_text(encoding="utf-8-sig")
    try:
        return str(path), path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        known = ", ".join(builtin_contrasts()) or "none"
        raise ContrastError(
            f"contrast {str(ref)!r} is neither a file nor a built-in; built-ins: {known}."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ContrastError(f"contrast {str(ref)!r} can't be read: {reason}.") from error


def _parse(where: str, line: str) -> tuple[Example, bool]:
    """One line as an example, and whether it names its split.

    Raises:
        ContrastError: bad JSON, or a field that is missing or of the wrong kind.
    """
    row = parse_json(line, where, ContrastError)
    if not isinstance(row, dict):
        raise ContrastError(f'{where}: expected an object like {{"text": ..., "label": 1}}.')
    fields = cast("dict[str, Any]", row)
    _check_keys(where, fields)
    text, label = fields.get("text"), fields.get("label")
    split, prompt, pair = fields.get("split"), fields.get("prompt"), fields.get("pair")
    if not isinstance(text, str) or not text.strip():
        raise ContrastError(f'{where}: "text" is {text!r}; expected text that is not empty.')
    if type(label) is not int or label not in (0, 1):
        raise ContrastError(f'{where}: "label" is {label!r}; expected 1 or 0.')
    if split is not None and split not in SPLITS:
        raise ContrastError(f'{where}: "split" is {split!r}; expected {", ".join(SPLITS)}.')
    if prompt is not None and not isinstance(prompt, str):
        raise ContrastError(f'{where}: "prompt" is {prompt!r}; expected text.')
    if pair is not None and type(pair) not in (str, int):
        raise ContrastError(f'{where}: "pair" is {pair!r}; expected text or a whole number.')
    example = Example(
        text, label, split or "train", None if pair is None else str(pair), prompt or None
    )
    return example, split is not None


def _check_keys(where: str, fields: Mapping[str, Any]) -> None:
    """Refuse a key that is nearly one that is missing; longer names, as `prompt_id`, are others.

    Raises:
        ContrastError: naming both.
    """
    missing = [key for key in _KEYS if key not in fields]
    for key in fields:
        for near in difflib.get_close_matches(key, missing, n=1, cutoff=0.8):
            if not key.startswith(near):
                raise ContrastError(f"{where}: unknown key {key!r}; did you mean {near!r}?")


def _with_splits(rows: Sequence[tuple[Example, bool]], seed: int, name: str) -> tuple[Example, ...]:
    """Give every example without a split its pair's, or a seeded one."""
    splits: dict[int, Split] = {}
    to_draw: dict[frozenset[int], list[list[int]]] = defaultdict(list)
    for unit in _units([example for example, _ in rows]):
        named: set[Split] = {rows[i][0].split for i in unit if rows[i][1]}
        if len(named) > 1 and rows[unit[0]][0].pair is not None:
            pair = rows[unit[0]][0].pair
            found = " and ".join(sorted(named))
            raise ContrastError(f"{name}: pair {pair!r} lies in {found}; keep a pair in one split.")
        if named:
            first = min(named)
            splits |= {i: rows[i][0].split if rows[i][1] else first for i in unit}
        else:
            to_draw[frozenset(rows[i][0].label for i in unit)].append(unit)
    for _, units in sorted(to_draw.items(), key=lambda item: sorted(item[0])):
        splits |= draw_splits(units, seed)
    return tuple(replace(example, split=splits[i]) for i, (example, _) in enumerate(rows))


def _units(examples: Sequence[Example]) -> list[list[int]]:
    """Indices of what must stay together: a pair id's examples, or the nth of either label."""
    units: dict[tuple[str, str | int], list[int]] = defaultdict(list)
    seen = {0: 0, 1: 0}
    for i, example in enumerate(examples):
        if example.pair is not None:
            units["pair", example.pair].append(i)
        else:
            units["order", seen[example.label]].append(i)
            seen[example.label] += 1
    return list(units.values())


def draw_splits(units: Sequence[list[int]], seed: int) -> dict[int, Split]:
    """Shuffle units into 60 % train, 20 % validation, 20 % test; below three, all are train."""
    order = list(units)
    random.Random(seed).shuffle(order)
    held = max(1, round(HELD_OUT_SHARE * len(order))) if len(order) >= 3 else 0
    drawn: dict[int, Split] = {}
    for rank, unit in enumerate(order):
        split: Split = "validation" if rank < held else "test" if rank < 2 * held else "train"
        drawn |= dict.fromkeys(unit, split)
    return drawn
