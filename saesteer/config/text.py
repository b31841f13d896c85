"""Where a run's text comes from, with labels and without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le, MinLen

Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0), Le(1)]
Seed = Annotated[int, Ge(0), Le(2**63 - 1)]
Paths = str | Annotated[list[str], MinLen(1)]

CLOSED = {"extra": "forbid", "allow_inf_nan": False}
"""Pydantic's names for refusing unknown keys, and numbers that are not finite."""


def listed(path: str | list[str]) -> list[str]:
    """One path or several as a list."""
    return [path] if isinstance(path, str) else path


@dataclass(frozen=True)
class TextConfig:
    """Where the text comes from.

    Attributes:
        path: a file, folder or `datasets` name, or several.
        weights: rows taken from each path per turn, evenly spread over it; default one each.
        field: key of the text in JSON records; default text, passage, document or content.
        passes: how often each file may be read.
        context: tokens per packed row.
    """

    __pydantic_config__ = CLOSED

    path: Paths
    weights: list[Count] | None = None
    field: str | None = None
    passes: Count = 1
    context: Annotated[int, Ge(2)] = 256

    @property
    def paths(self) -> list[str]:
        """The paths as a list."""
        return listed(self.path)


@dataclass(frozen=True)
class SupervisedConfig:
    """A latent that learns a concept from labels (SCAR; Härle et al. 2024), beside the usual loss.

    Attributes:
        path: JSON-lines files of records with `label` 0 or 1 beside the text, or several, such as
            contrasts: records whose `split` is not train are left out. Every token of a record
            carries its label; text.path has none. One packed row of each path per turn, again and
            again as long as text.path lasts.
        latent: which one.
        weight: of the loss, whose unit is nats a labelled token.
    """

    __pydantic_config__ = CLOSED

    path: Paths
    latent: Whole = 0
    weight: Positive = 1.0

    @property
    def paths(self) -> list[str]:
        """The paths as a list."""
        return listed(self.path)
