"""How strongly an edit acts over time: a factor of Δh, from positions or from activations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch

from saesteer.axes import Resid, TokenFloat
from saesteer.errors import PlanError
from saesteer.models.sites import Site
from saesteer.steer.frame import Frame


@dataclass(frozen=True)
class Schedule(ABC):
    """A factor per position, from positions alone."""

    @abstractmethod
    def factor(self, frame: Frame) -> TokenFloat:
        """What Δh is multiplied by, `[batch, pos]`, beside the strength."""


@dataclass(frozen=True, eq=False)
class ReadingSchedule(ABC):
    """A factor per position, from activations at that position and nowhere else.

    So it needs no memory, and is the same with a cache and without. Readings are taken before the
    plan's own edits at their site; an edit that a pass reaches before them is refused.
    """

    @property
    @abstractmethod
    def sites(self) -> tuple[Site, ...]:
        """What it reads."""

    @abstractmethod
    def factor(self, readings: Mapping[Site, Resid], memo: dict[Any, Any]) -> TokenFloat:
        """What Δh is multiplied by, `[batch, pos]`, beside the strength.

        Args:
            readings: `[batch, pos, width]` for each of `sites`, in the model's dtype.
            memo: of this pass, for what several edits' schedules have in common.
        """


@final
@dataclass(frozen=True)
class Constant(Schedule):
    """The same all along; an edit without a schedule has this one."""

    def factor(self, frame: Frame) -> TokenFloat:
        """One."""
        return torch.ones_like(frame.valid, dtype=torch.float32)


@final
@dataclass(frozen=True)
class Decay(Schedule):
    """Halves every `half_life` generated tokens; 1 up to the last prompt token."""

    half_life: float

    def __post_init__(self) -> None:
        """Check the half-life.

        Raises:
            PlanError: it is not positive.
        """
        if not self.half_life > 0:
            raise PlanError(f"decay: half_life is {self.half_life}, expected more than 0 tokens.")

    def factor(self, frame: Frame) -> TokenFloat:
        """0.5 ** (generated tokens so far / half_life)."""
        since = frame.logical - (frame.need_prompt_lengths("decay()") - 1)
        return 0.5 ** (since.clamp(min=0).float() / self.half_life)


def constant() -> Schedule:
    """The same strength all along."""
    return Constant()


def decay(half_life: int | float) -> Schedule:
    """Full strength at the last prompt token, half of it `half_life` tokens later, and so on.

    Raises:
        PlanError: half_life is not positive.
    """
    return Decay(float(half_life))
