"""An edit that turns attention heads away from a direction and keeps the norm of all of them.

For each head `z ← z − (1 + ‖v‖)^a · (1 + relu cos(z, n))^b · v`, a = 0.4, b = 0.6; then all heads
together are brought back to the norm that z had (Leong et al. 2023, 2310.09573, and their code).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saesteer.axes import Resid
from saesteer.steer.intervention import Intervention
from saesteer.steer.kinds import register_kind

NORM_EXPONENT = 0.4
SIMILARITY_EXPONENT = 0.6


@register_kind
@final
@dataclass(frozen=True, eq=False)
class Reversal(Intervention):
    """h − scale · v, head by head, at the norm that h had; n is `negative`."""

    vector: Float[Tensor, "heads d_head"]
    negative: Float[Tensor, "heads d_head"]

    @property
    def width(self) -> int:
        """All heads side by side."""
        return self.vector.numel()

    def describe(self) -> str:
        """`turn 9 heads away`."""
        return f"turn {len(self.vector)} heads away"

    def delta(self, resid: Resid) -> Resid:
        """The turned activation less the activation."""
        resid = resid.float()
        heads = resid.unflatten(-1, self.vector.shape)
        alike = functional.cosine_similarity(heads, self.negative, dim=-1).relu()
        scale = (1 + self.vector.norm(dim=-1)) ** NORM_EXPONENT * (1 + alike) ** SIMILARITY_EXPONENT
        moved = (heads - scale[..., None] * self.vector).flatten(-2)
        kept = resid.norm(dim=-1, keepdim=True)
        return functional.normalize(moved, dim=-1) * kept - resid
