"""One of several vectors at each position, picked by a linear probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Resid
from saesteer.steer.intervention import Intervention
from saesteer.steer.kinds import register_kind


@register_kind
@final
@dataclass(frozen=True, eq=False)
class AddChosen(Intervention):
    """h + v_j, j the largest of the probe's logits at h."""

    vectors: Float[Tensor, "k width"]
    weight: Float[Tensor, "k width"]
    bias: Float[Tensor, " k"]

    @property
    def width(self) -> int:
        """Size of the vectors."""
        return self.vectors.shape[1]

    def describe(self) -> str:
        """`add one of 4 vectors`."""
        return f"add one of {len(self.vectors)} vectors"

    def delta(self, resid: Resid) -> Resid:
        """The chosen vector at each position."""
        logits = resid.float() @ self.weight.T + self.bias
        return self.vectors[logits.argmax(-1)]
