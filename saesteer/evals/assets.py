"""What ships beside the code: sample prose, glosses, rule files; all written for this project."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any


def asset(*parts: str) -> Path:
    """Path of a shipped file."""
    return Path(str(resources.files("saesteer"))).joinpath("assets", *parts)


def prose() -> Iterator[str]:
    """The sample prose, one text per file, in order of their names."""
    for path in sorted(asset("prose").glob("*.txt")):
        yield path.read_text(encoding="utf-8")


def glosses() -> dict[int, str]:
    """Features of the shipped SAE that a person looked at and named."""
    found = json.loads(asset("glosses.json").read_text(encoding="utf-8"))
    return {int(index): gloss for index, gloss in found.items()}


def laws() -> dict[str, Any]:
    """By method, the laws that a full run of the conformance tests saw it pass, and where.

    Each has `architectures`, `passed`, `failed`, and `left_out`: architectures that lack what the
    method acts on, with the reason.
    """
    return json.loads(asset("laws.json").read_text(encoding="utf-8"))
