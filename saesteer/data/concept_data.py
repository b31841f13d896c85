"""Labelled texts for concepts, at four grains: whole texts, sentences, spans and words.

A concept is one source: JSON lines, a text file with one text a line, or a folder of text files
with one text each. Lines of JSON are

    {"text": ..., "label": 1|0}                              the whole text shows it or not
    {"text": ..., "spans": [[start, end], ...]}              these characters show it, no others
    {"pieces": [...], "labels": [1|0, ...]}                  words or sentences, each with its label
    {"text": ...}                                            shows it; negatives are found elsewhere

each with optional `split`, `pair` and `prompt`, as a `Contrast` has them. Where a source has only
texts that show the concept, negatives are taken from the other concepts' texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from saesteer.data.contrast import (
    SPLITS,
    Contrast,
    Example,
    builtin_contrasts,
    draw_splits,
)
from saesteer.errors import ContrastError
from saesteer.files import lines_of, path_of, read_json_lines

Span = tuple[int, int]


@dataclass(frozen=True)
class ConceptData:
    """The texts of one concept.

    Attributes:
        examples: with label 1 where the text shows the concept, at least somewhere.
        spans: the characters that show it, text by text; None where whole texts are labelled.
    """

    name: str
    examples: tuple[Example, ...]
    spans: tuple[tuple[Span, ...], ...] | None = None

    @property
    def needs_negatives(self) -> bool:
        """Whether there are texts that show it and nothing else."""
        return self.spans is None and all(example.label == 1 for example in self.examples)


def read_concept_data(source: str | Path, seed: int = 0) -> list[ConceptData]:
    """The concepts of a file, a folder (one for each entry), or a YAML of `{concept: source}`.

    Raises:
        ContrastError: no such source, or a line that can't be used; the text names both.
    """
    named = _sources(source)
    if not named:
        raise ContrastError(f"{source} holds no .jsonl or .txt file and no folder of .txt files.")
    return [_read(name, ref, seed) for name, ref in named.items()]


def _sources(source: str | Path) -> dict[str, Path]:
    path = path_of(source, ContrastError).expanduser()
    if path.suffix in (".yaml", ".yml"):
        return _yaml(path)
    if path.is_file() or _is_builtin(path):
        return {path.stem: path}
    if path.is_dir():
        entries = sorted(e for e in path.iterdir() if e.is_dir() or e.suffix in (".jsonl", ".txt"))
        return {entry.stem: entry for entry in entries}
    raise ContrastError(f"concepts {str(source)!r} is neither a file, a folder nor a built-in.")


def _is_builtin(ref: Path) -> bool:
    """Whether a name means a built-in: a folder that holds nothing, such as `--out`, hides none."""
    there = ref.is_file() or (ref.is_dir() and any(ref.iterdir()))
    return str(ref) in builtin_contrasts() and not there


def _yaml(path: Path) -> dict[str, Path]:
    import yaml

    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ContrastError(f"concepts {path} can't be read: {error}.") from error
    good = isinstance(raw, Mapping) and all(isinstance(ref, str) for ref in raw.values())
    if not raw or not good:
        raise ContrastError(f"concepts {path}: expected a mapping of concept to file or folder.")
    refs = {str(name): path_of(ref, ContrastError) for name, ref in raw.items()}
    listed = {name: path.parent / ref.expanduser() for name, ref in refs.items()}
    return {name: ref if ref.exists() else refs[name] for name, ref in listed.items()}


def _read(name: str, ref: Path, seed: int) -> ConceptData:
    """One concept; JSON lines with labels are read as a contrast is."""
    plain = ref.is_dir() or ref.suffix == ".txt"
    rows = None if _is_builtin(ref) else _texts(ref) if plain else _json_rows(ref)
    if rows is None:
        return ConceptData(name, Contrast.read(ref, seed=seed).examples)
    spans = [row.pop("spans") for row in rows] if "spans" in rows[0] else None
    label = [1] * len(rows) if spans is None else [int(bool(one)) for one in spans]
    examples = [Example(label=one, **row) for one, row in zip(label, rows, strict=True)]
    split = _draw_splits(examples, seed)
    return ConceptData(name, split, None if spans is None else tuple(spans))


def _texts(ref: Path) -> list[dict[str, Any]]:
    """Every line of a text file, or every file of a folder."""
    try:
        if ref.is_dir():
            files = sorted(ref.glob("*.txt"))
            texts = [file.read_text(encoding="utf-8") for file in files]
        else:
            texts = [line for _, line in lines_of(ref.read_text(encoding="utf-8-sig"))]
    except (OSError, UnicodeDecodeError) as error:
        raise ContrastError(f"{ref} can't be read: {error}.") from error
    rows = [{"text": text.strip()} for text in texts if text.strip()]
    if not rows:
        raise ContrastError(f"{ref} holds no text.")
    return rows


def _json_rows(ref: Path) -> list[dict[str, Any]] | None:
    """Rows with spans, or with texts alone; None for a contrast, whose rows have labels."""
    raw = read_json_lines(ref, ContrastError)
    if not raw:
        raise ContrastError(f"{ref} holds no text.")
    kinds = {_kind(row) for _, row in raw}
    if kinds == {"label"}:
        return None
    if len(kinds) > 1:
        found = " and ".join(sorted(kinds))
        raise ContrastError(f"{ref} mixes rows with {found}; use one kind of label in a file.")
    return [_row(row, f"{ref}, line {n}") for n, row in raw]


def _kind(row: Any) -> str:
    known = ("label", "spans", "pieces") if isinstance(row, dict) else ()
    return next((key for key in known if key in row), "text")


def _row(raw: Any, where: str) -> dict[str, Any]:
    fields = cast("dict[str, Any]", raw if isinstance(raw, dict) else {})
    if "pieces" in fields:
        fields = fields | _joined(fields, where)
    text = fields.get("text")
    if not isinstance(text, str) or not text.strip():
        raise ContrastError(f'{where}: "text" is {text!r}; expected text that is not empty.')
    row = {key: fields[key] for key in ("split", "prompt") if fields.get(key) is not None}
    row |= {"pair": str(fields["pair"])} if fields.get("pair") is not None else {}
    if row.get("split", "train") not in SPLITS:
        raise ContrastError(f'{where}: "split" is {row["split"]!r}; expected {", ".join(SPLITS)}.')
    if "spans" not in fields:
        return row | {"text": text}
    spans = fields["spans"]
    if not isinstance(spans, list) or not all(_is_span(span, len(text)) for span in spans):
        raise ContrastError(
            f'{where}: "spans" is {spans!r}; expected [start, end] pairs within its '
            f"{len(text)} characters."
        )
    return row | {"text": text, "spans": tuple((a, b) for a, b in spans)}


def _joined(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Words or sentences with a label each, as one text with spans."""
    pieces: list[Any] = fields["pieces"] if isinstance(fields["pieces"], list) else []
    labels: list[Any] = fields["labels"] if isinstance(fields.get("labels"), list) else []
    good = bool(pieces) and len(pieces) == len(labels) and all(x in (0, 1) for x in labels)
    if not good or not all(isinstance(piece, str) for piece in pieces):
        raise ContrastError(f"{where}: expected as many labels, 1 or 0, as pieces of text.")
    starts = [sum(len(p) + 1 for p in pieces[:n]) for n in range(len(pieces))]
    marked = zip(starts, pieces, labels, strict=True)
    return {"text": " ".join(pieces), "spans": [[a, a + len(p)] for a, p, on in marked if on]}


def _is_span(span: Any, length: int) -> bool:
    whole = isinstance(span, list) and len(span) == 2 and all(type(x) is int for x in span)
    return whole and 0 <= span[0] < span[1] <= length


def _draw_splits(examples: Sequence[Example], seed: int) -> tuple[Example, ...]:
    """60 % train, 20 % validation, 20 % test, unless they say; a pair stays on one side."""
    if any(example.split != "train" for example in examples):
        return tuple(examples)
    units: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        alone = f"{index}" if example.pair is None else f"pair {example.pair}"
        units.setdefault(alone, []).append(index)
    drawn = draw_splits(list(units.values()), seed)
    return tuple(replace(example, split=drawn[i]) for i, example in enumerate(examples))
