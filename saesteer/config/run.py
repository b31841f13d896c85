"""What a run keeps beside its weights: its tracking, activations on disk, held-out scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from saesteer.config.text import CLOSED, Count, Paths, Whole, listed


@dataclass(frozen=True)
class WandbConfig:
    """Tracking in wandb; off unless `project` is set. mode "offline" needs no account."""

    __pydantic_config__ = CLOSED

    project: str | None = None
    name: str | None = None
    mode: Literal["online", "offline"] = "offline"


@dataclass(frozen=True)
class CacheConfig:
    """Activations kept on disk, to be read again by later runs; off unless `path` is set.

    Attributes:
        path: a folder; it is filled before training starts.
        passes: how often a run reads it; `n_tokens` must not ask for more.
        rows_per_shard: 65,536 rows of width 576 in bf16 are 75 MB.
    """

    __pydantic_config__ = CLOSED

    path: str | None = None
    passes: Count = 1
    rows_per_shard: Count = 65_536


@dataclass(frozen=True)
class ScoreConfig:
    """Held-out scores of the SAEs as they stand, while they train.

    Attributes:
        every_steps: also when the histogram of firing frequencies is logged; 0 for never.
        tokens: how many are scored, the same ones each time.
        path: held-out text; default the prose that ships with the package.
    """

    __pydantic_config__ = CLOSED

    every_steps: Whole = 2000
    tokens: Count = 4096
    path: Paths | None = None

    @property
    def paths(self) -> list[str]:
        """The paths as a list, empty for the default."""
        return [] if self.path is None else listed(self.path)
