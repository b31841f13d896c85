"""A probe that watches the answer, and a control that takes the answer back when it falls.

The parts of FASB (Cheng et al. 2025, Steering When Necessary).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from saesteer.axes import TokenMask, Vector
from saesteer.models.sites import Site
from saesteer.steer.control import Control, Step
from saesteer.steer.frame import Frame
from saesteer.steer.gate import ColumnHistory
from saesteer.steer.kinds import register_kind


@register_kind
@final
@dataclass(frozen=True, eq=False)
class ProbeFalls:
    """Open at generated tokens where the mean probability over the answer so far is below `tau`."""

    site: Site
    weight: Vector
    bias: float
    tau: float

    @property
    def sites(self) -> tuple[Site, ...]:
        """The one site that it reads."""
        return (self.site,)

    def new_state(self) -> ColumnHistory:
        """Sum and number of the answer's probabilities so far, `[batch, columns, 2]`."""
        return ColumnHistory()

    def open(
        self, readings: Mapping[Site, Tensor], frame: Frame, state: ColumnHistory
    ) -> TokenMask:
        """Where the mean has fallen, `[batch, pos]`."""
        resid = readings[self.site].float()
        p = torch.sigmoid(resid @ self.weight.to(resid.device) + self.bias)
        said = (frame.logical >= frame.need_prompt_lengths("FASB")) & frame.live
        said = said.to(p.device)
        now = torch.stack([torch.where(said, p, 0.0), said.float()], -1).cumsum(1)
        totals = now + state.before(frame, now)
        state.write(frame, totals)
        mean = totals[..., 0] / totals[..., 1].clamp(min=1)
        frame.note("mean", mean)
        return said & (mean < self.tau)

    def explain(self, evidence: Mapping[str, Any], row: int, index: int) -> str:
        """`mean probability 0.31, taken back below 0.5`."""
        mean = float(evidence["mean"][row, index])
        return f"mean probability {mean:.3g}, taken back below {self.tau:.3g}"


@register_kind
@final
@dataclass(frozen=True, eq=False)
class TakeBackAndSteer(Control):
    """Takes up to `n` tokens back, and sets a dial to 1 - p̄ from there on."""

    rewinds: ClassVar[bool] = True

    key: str
    n: int

    @property
    def label(self) -> str:
        """`take back 10 tokens and steer`."""
        return f"take back {self.n} tokens and steer"

    def new_state(self) -> list[int]:
        """Lengths of the answer at which it was cut."""
        return [0]

    def after(self, step: Step) -> None:
        """Cut where the gate is open and the answer longer than at the last cut."""
        for row in step.rows():
            if step.n_new > step.state[-1]:
                step.state.append(step.n_new)
                cut, missing = min(self.n, step.n_new), 1 - step.evidence("mean")
                step.log(row, f"took back {cut}, strength {float(missing[row]):.3g}")
                step.dial(self.key, missing, step.n_columns - cut - 1)
                step.rewind(cut, ban=False)
