"""Another model's intervention, through linear maps there and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Resid
from saesteer.steer.intervention import Intervention
from saesteer.steer.kinds import register_kind


@register_kind
@final
@dataclass(frozen=True, eq=False)
class Pasted(Intervention):
    """Another model's intervention: Δh = I(h C_to) C_back."""

    to_donor: Float[Tensor, "width donor"]
    back: Float[Tensor, "donor width"]
    inner: Intervention

    @property
    def width(self) -> int:
        """Size of the recipient's activations."""
        return self.to_donor.shape[0]

    def describe(self) -> str:
        """What the donor's does, and where: `add a vector of norm 3 (pasted from resid_post.4)`."""
        return f"{self.inner.describe()} (pasted from {self.inner.site})"

    def delta(self, resid: Resid) -> Resid:
        """The donor's change, brought back."""
        return self.inner.delta(resid.float() @ self.to_donor) @ self.back

    def to(self, device: torch.device | str) -> Intervention:
        """The same intervention on `device`, the donor's with it."""
        there = (t.to(device, torch.float32) for t in (self.to_donor, self.back))
        return Pasted(self.site, *there, self.inner.to(device))
