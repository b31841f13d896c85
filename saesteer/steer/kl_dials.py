"""Dials that follow a divergence: an edit acts as much as it would change what is said next.

The control behind Dynamic Activation Composition (Scalena et al. 2024, 2406.17563).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.steer.control import Control, Step
from saesteer.steer.kinds import register_kind


@register_kind
@final
@dataclass(frozen=True, eq=False)
class KlDials(Control):
    """Sets each dial to the clipped divergence that its property alone would make."""

    keys: tuple[str, ...]
    alpha_max: float
    top_p: float

    @property
    def label(self) -> str:
        """`set 2 dials by KL`."""
        return f"set {len(self.keys)} dial{'s'[: len(self.keys) != 1]} by KL"

    def before(self, step: Step) -> None:
        """Look at the newest token unsteered and with each property, and set the dials for it."""
        off = dict.fromkeys(self.keys, 0.0)
        plain = step.aside(off)
        for key in self.keys:
            steered = step.aside({**off, key: self.alpha_max})
            alpha = top_p_kl(steered, plain, self.top_p).clamp(0, self.alpha_max)
            step.dial(key, alpha, step.n_columns - 1)


def top_p_kl(
    p: Float[Tensor, "rows vocab"], q: Float[Tensor, "rows vocab"], top_p: float
) -> Float[Tensor, " rows"]:
    """KL(p ‖ q) in nats of logits, over the union of their top-p tokens, renormalised."""
    kept = _top(p, top_p) | _top(q, top_p)
    logs = [x.masked_fill(~kept, -torch.inf).log_softmax(-1) for x in (p, q)]
    difference = (logs[0] - logs[1]).masked_fill(~kept, 0.0)
    return (logs[0].exp() * difference).sum(-1)


def _top(logits: Tensor, top_p: float) -> Tensor:
    """The likeliest tokens up to and with the one that reaches `top_p`."""
    ordered, order = logits.softmax(-1).sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before < top_p)
