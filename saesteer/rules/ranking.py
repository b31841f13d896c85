"""What decides between rules: a gate shut where a more important one is open, and a mere report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from saesteer.axes import TokenMask
from saesteer.models.sites import Site
from saesteer.steer.control import OncePerRow, Step
from saesteer.steer.frame import Frame
from saesteer.steer.gate import Explains, FollowsRows, Gate
from saesteer.steer.kinds import register_kind


@final
@dataclass(eq=False)
class RankedState:
    """The states of the gate itself and of those above it."""

    parts: tuple[Any, ...]

    def select_rows(self, rows: Tensor) -> None:
        """Follow the cache: keep these rows in this order."""
        for part in self.parts:
            if isinstance(part, FollowsRows):
                part.select_rows(rows)


@register_kind
@final
@dataclass(frozen=True, eq=False)
class Outranked:
    """Open where `gate` is and none of `above` is; these have a higher priority."""

    gate: Gate
    above: tuple[Gate, ...]

    @property
    def sites(self) -> tuple[Site, ...]:
        """What all of them read."""
        sites = (site for gate in (self.gate, *self.above) for site in gate.sites)
        return tuple(dict.fromkeys(sites))

    def new_state(self) -> RankedState:
        """A state for each."""
        return RankedState(tuple(gate.new_state() for gate in (self.gate, *self.above)))

    def open(self, readings: Mapping[Site, Tensor], frame: Frame, state: RankedState) -> TokenMask:
        """Where the gate is open and nothing above it, `[batch, pos]`."""
        each = zip((self.gate, *self.above), state.parts, strict=True)
        own, *above = [gate.open(readings, frame, part) for gate, part in each]
        shut = torch.stack(above).any(0) if above else torch.zeros_like(own)
        frame.note("outranked", own & shut)
        return own & ~shut

    def explain(self, evidence: Mapping[str, Any], row: int, index: int) -> str:
        """What the gate says, and whether something above it shut it."""
        told = self.gate.explain(evidence, row, index) if isinstance(self.gate, Explains) else ""
        shut = "outranked" in evidence and bool(evidence["outranked"][row, index])
        return told + "\noutranked by a rule of higher priority" * shut


@register_kind
@final
@dataclass(frozen=True, eq=False)
class Report(OncePerRow):
    """Change nothing; tell the trace where the gate first opens in each row."""

    text: str = "noticed"

    @property
    def label(self) -> str:
        """`report "..."`."""
        return f'report "{self.text}"'

    def act(self, step: Step, row: int) -> None:
        """Tell the trace of the row."""
        step.log(row, self.text)
