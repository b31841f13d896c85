"""Any gate, held open: once it has opened in a text it stays so, for good or for some tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from saesteer.axes import TokenMask
from saesteer.errors import PlanError
from saesteer.models.sites import Site
from saesteer.steer.frame import Frame
from saesteer.steer.gate import SINCE, ColumnHistory, Explains, FollowsRows, Gate
from saesteer.steer.kinds import register_kind
from saesteer.steer.where import is_count


@final
@dataclass(eq=False)
class LatchState:
    """What the gate itself remembers, and at which columns it was open."""

    inner: Any
    opened: ColumnHistory

    def select_rows(self, rows: Tensor) -> None:
        """Follow the cache: keep these rows in this order."""
        self.opened.select_rows(rows)
        if isinstance(self.inner, FollowsRows):
            self.inner.select_rows(rows)


@register_kind
@final
@dataclass(frozen=True, eq=False)
class Latched:
    """Open from each token at which `gate` is open, for `duration` real tokens, that one included.

    Kept by column, so beams, rollbacks, caches and batches agree (`ColumnHistory`).

    Attributes:
        duration: None for the rest of the text.

    Raises:
        PlanError: no gate, or a duration below 1.
    """

    gate: Gate
    duration: int | None = None

    def __post_init__(self) -> None:
        """Check the parts."""
        if not isinstance(self.gate, Gate):
            raise PlanError(f"latched: got a {type(self.gate).__name__}, expected a gate.")
        if self.duration is not None and not is_count(self.duration, 1):
            raise PlanError(f"latched: duration is {self.duration}, expected 1 token or more.")

    @property
    def sites(self) -> tuple[Site, ...]:
        """What the gate reads."""
        return self.gate.sites

    def new_state(self) -> LatchState:
        """The gate's own state beside the positions at which it was open, `[batch, columns, 1]`."""
        return LatchState(self.gate.new_state(), ColumnHistory(fill=-1.0))

    def open(self, readings: Mapping[Site, Tensor], frame: Frame, state: LatchState) -> TokenMask:
        """Where the latest opening is recent enough, `[batch, pos]`."""
        now = self.gate.open(readings, frame, state.inner).to(frame.valid.device) & frame.valid
        frame.note(self._note, now)
        at = torch.where(now, frame.logical.float(), -1.0)
        state.opened.write(frame, at[..., None])
        latest = state.opened.so_far(frame)[..., 0].cummax(1).values[:, frame.start :]
        held = latest >= 0
        if self.duration is not None:
            held = held & (frame.logical - latest < self.duration)
        return held & frame.valid

    def opens(self, evidence: Mapping[str, Any], row: int, index: int) -> bool:
        """Whether the gate itself was open there, not held open."""
        return bool(evidence[self._note][row, index])

    def explain(self, evidence: Mapping[str, Any], row: int, index: int) -> str:
        """What the gate says of the token itself, or said of the one that opened it."""
        if SINCE in evidence:
            return f"latched since {evidence[SINCE]}"
        if not isinstance(self.gate, Explains):
            return "latched"
        return f"latched: {self.gate.explain(evidence, row, index)}"

    @property
    def _note(self) -> str:
        """Where it notes its openings; others may leave notes beside it."""
        return f"latched {id(self)}"


def latched(gate: Gate, duration: int | None = None) -> Latched:
    """Hold a gate open once it has opened: for `duration` tokens, or for the rest of the text.

    Raises:
        PlanError: no gate, or a duration below 1.
    """
    return Latched(gate, duration)
