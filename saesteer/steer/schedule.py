"""How strongly an edit acts over time; a schedule multiplies Δh and reads positions only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch

from saesteer.axes import TokenFloat
from saesteer.errors import PlanError
from saesteer.steer.frame import Frame


@dataclass(frozen=True)
class Schedule(ABC):
    """A factor per position."""

    @abstractmethod
    def factor(self, frame: Frame) -> TokenFloat:
        """What Δh is multiplied by, `[batch, pos]`, beside the strength."""


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
