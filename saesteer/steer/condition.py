"""A gate that asks once per text whether the prompt is of a kind, and is settled at its end.

The prompt is summarised by one activation m, the mean over its tokens or its last one, and is of
the kind when cos(m, tanh(P m)) lies on one side of a threshold, P = c cᵀ / cᵀc the projection on a
condition vector c (Lee et al. 2024, 2409.05907). Running sums are kept by column, so chunks, caches
and beams agree; each row answers for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.axes import TokenMask
from saesteer.models.sites import Site
from saesteer.steer.frame import Frame
from saesteer.steer.gate import ColumnHistory
from saesteer.steer.kinds import register_kind

Over = Literal["mean", "last"]


def condition_score(
    summary: Float[Tensor, "*rows width"], vector: Float[Tensor, " width"]
) -> Float[Tensor, "*rows"]:
    """cos(m, tanh(P m)), 0 to 1: it grows with |m·c| and does not know its sign."""
    along = summary @ vector / vector.square().sum()
    squashed = torch.tanh(along[..., None] * vector)
    return torch.cosine_similarity(summary, squashed, dim=-1)


@register_kind
@final
@dataclass(frozen=True, eq=False)
class PromptCondition:
    """Open from the last prompt token on, in rows whose prompt scores on the right side.

    Attributes:
        vector: the condition vector c, `[width]`.
        above: open where the score exceeds `threshold`; below it otherwise.
        over: m is the mean over the prompt's tokens, or its last token.
        norm_limit: tokens of a larger ‖h‖ stay out of the mean, as special tokens do; None for no
            limit. A constant, since a batch's median would let rows decide about each other.
    """

    site: Site
    vector: Float[Tensor, " width"]
    threshold: float
    above: bool = True
    over: Over = "mean"
    norm_limit: float | None = None
    _on: dict[torch.device, Tensor] = field(init=False, default_factory=dict, repr=False)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The one site that it reads."""
        return (self.site,)

    def new_state(self) -> ColumnHistory:
        """Sum and number of the counted activations so far, `[batch, columns, width + 1]`."""
        return ColumnHistory()

    def open(
        self, readings: Mapping[Site, Tensor], frame: Frame, state: ColumnHistory
    ) -> TokenMask:
        """Where edits may act, `[batch, pos]`.

        Raises:
            PlanError: nobody said where the prompt ends.
        """
        resid = readings[self.site].float()
        counted = self._counted(resid, frame)[..., None].to(resid.device)
        now = torch.cat([torch.where(counted, resid, 0.0), counted.float()], -1).cumsum(1)
        totals = now + state.before(frame, now)
        state.write(frame, totals)
        number = totals[..., -1]
        summary = totals[..., :-1] / number.clamp(min=1)[..., None]
        score = condition_score(summary, self._vector(resid))
        frame.note("condition", score)
        met = score > self.threshold if self.above else score < self.threshold
        ended = frame.logical >= frame.need_prompt_lengths("a prompt's condition") - 1
        return (met & (number > 0)).to(ended.device) & ended & frame.valid

    def explain(self, evidence: Mapping[str, Any], row: int, index: int) -> str:
        """`condition 0.12, opens above 0.2`."""
        side = "above" if self.above else "below"
        score = float(evidence["condition"][row, index])
        return f"condition {score:.3g}, opens {side} {self.threshold:.3g}"

    def _counted(self, resid: Tensor, frame: Frame) -> TokenMask:
        """The prompt's tokens that m is made of."""
        end = frame.need_prompt_lengths("a prompt's condition")
        if self.over == "last":
            return (frame.logical == end - 1) & frame.valid
        counted = (frame.logical < end) & frame.valid
        if frame.special is not None:
            counted = counted & ~frame.special
        if self.norm_limit is None:
            return counted
        return counted & (resid.norm(dim=-1) <= self.norm_limit).to(counted.device)

    def _vector(self, resid: Tensor) -> Tensor:
        if resid.device not in self._on:
            self._on[resid.device] = self.vector.to(resid.device, torch.float32)
        return self._on[resid.device]
