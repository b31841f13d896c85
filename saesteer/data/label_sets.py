"""Prompts with one label or several: a contrast for each label, over the same texts and splits.

Lines are `{"text", "label": 1|0}`, as a `Contrast` has them, or `{"text", "labels": ["a", "b"]}`
with the names of everything that is true of the text; `split` is optional in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from saesteer.data.contrast import SPLITS, Contrast, Example, draw_splits
from saesteer.errors import ContrastError
from saesteer.files import path_of, read_json_lines


def read_label_sets(source: str | Path, seed: int = 0) -> dict[str, Contrast]:
    """A contrast by label, in order of the alphabet; a file of one label is called as the file is.

    Raises:
        ContrastError: no such file, or a line that can't be used; the text names both.
    """
    path = path_of(source, ContrastError).expanduser()
    if not path.is_file():
        return {Path(source).stem: Contrast.read(source, seed=seed)}
    read = read_json_lines(path, ContrastError)
    rows = [(n, row if isinstance(row, dict) else {}) for n, row in read]
    if not any("labels" in row for _, row in rows):
        return {path.stem: Contrast.read(path, seed=seed)}
    checked = [_checked(row, f"{path}, line {n}") for n, row in rows]
    texts = [Example(row["text"], 0, row.get("split") or "train") for row in checked]
    if not any(row.get("split") for row in checked):
        drawn = _drawn([frozenset(row["labels"]) for row in checked], seed)
        texts = [replace(text, split=drawn[i]) for i, text in enumerate(texts)]
    both = list(zip(texts, checked, strict=True))
    return {
        name: Contrast(tuple(replace(e, label=int(name in row["labels"])) for e, row in both), name)
        for name in sorted({name for row in checked for name in row["labels"]})
    }


def _checked(row: dict[str, Any], where: str) -> dict[str, Any]:
    labels, text = row.get("labels"), row.get("text")
    if not isinstance(text, str) or not text.strip():
        raise ContrastError(f'{where}: "text" is {text!r}; expected text that is not empty.')
    if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
        raise ContrastError(f'{where}: "labels" is {labels!r}; expected a list of names.')
    if row.get("split", "train") not in SPLITS:
        raise ContrastError(f'{where}: "split" is {row["split"]!r}; expected {", ".join(SPLITS)}.')
    return row


def _drawn(labels: Sequence[frozenset[str]], seed: int) -> dict[int, Any]:
    """Splits drawn apart for each set of labels, so that each has its share everywhere."""
    units: dict[tuple[str, ...], list[list[int]]] = {}
    for i, names in enumerate(labels):
        units.setdefault(tuple(sorted(names)), []).append([i])
    return {i: s for key in sorted(units) for i, s in draw_splits(units[key], seed).items()}
