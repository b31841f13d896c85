"""Edits made ready for one model: their strength worked in, their tensors on each device once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from saesteer.models import Site
from saesteer.steer.edit import Edit
from saesteer.steer.frame import Frame
from saesteer.steer.gate import Always
from saesteer.steer.intervention import Intervention
from saesteer.steer.schedule import ReadingSchedule
from saesteer.steer.site_records import norm


class Placed(NamedTuple):
    """An intervention on one device, and what it adds at every position alike, strength in it."""

    intervention: Intervention
    constant: Tensor | None
    norm: Tensor | None


@final
@dataclass(eq=False)
class Act:
    """An edit made ready for one model; tensors are moved to each device once."""

    index: int
    edit: Edit
    strength: float
    intervention: Intervention
    placed: dict[torch.device, Placed] = field(default_factory=dict)

    @property
    def is_steady(self) -> bool:
        """Whether it adds one vector wherever its `where` lets it, whatever the text."""
        plain = isinstance(self.edit.gate, Always) and self.edit.schedule is None
        return plain and self.intervention.constant() is not None

    def move(
        self,
        wide: Tensor,
        frame: Frame,
        readings: Mapping[Site, Tensor],
        worked: dict[Any, Any],
    ) -> tuple[Tensor, Tensor | None]:
        """Δh, one for all positions where it is, and then its norm.

        Args:
            wide: the activation in fp32, `[batch, pos, width]`.
            readings: what the pass has read so far, for schedules that need it.
            worked: what such schedules have worked out in this pass.
        """
        here = self.on(wide.device)
        match self.edit.schedule:
            case None:
                factor = None
            case ReadingSchedule() as schedule:
                read = {site: readings[site] for site in schedule.sites}
                factor = schedule.factor(read, worked)
            case schedule:
                factor = schedule.factor(frame)
        if factor is not None:
            dose = self.strength * factor.to(wide.device)[..., None]
            return here.intervention.delta(wide) * dose, None
        if here.constant is not None:
            return here.constant, here.norm
        move = here.intervention.delta(wide)
        return (move if self.strength == 1.0 else move * self.strength), None

    def on(self, device: torch.device) -> Placed:
        """What it is on a device, moved there once."""
        return self.placed.get(device) or self._place(device)

    def _place(self, device: torch.device) -> Placed:
        intervention = self.intervention.to(device)
        constant = intervention.constant()
        scaled = None if constant is None else constant * self.strength
        self.placed[device] = Placed(intervention, scaled, None if scaled is None else norm(scaled))
        return self.placed[device]


def narrow(new: Tensor, old: Tensor, dtype: torch.dtype) -> Tensor:
    """`new` rounded to the model's dtype; fp16 saturates where `old` was finite, not overflows.

    An infinity that was there stays, so that a broken model does not look whole.
    """
    if dtype != torch.float16:
        return new.to(dtype)
    limit = torch.finfo(dtype).max
    return torch.where(old.isfinite(), new.clamp(-limit, limit), new).to(dtype)
