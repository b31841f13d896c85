"""Acts on weights: W + s ΔW while a plan is attached, and W itself, to the last bit, afterwards.

They act at every position of every text. Strength multiplies ΔW, so what it does to activations
is in general not linear in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from saesteer.errors import DimensionError
from saesteer.steer.edit import finite_strength
from saesteer.steer.intervention import finite


@final
@dataclass(frozen=True, eq=False)
class WeightEdit:
    """One act on one parameter.

    Attributes:
        parameter: its name, as in `model.hf.named_parameters()`.
        change: ΔW, of the parameter's shape; or its left factor `[..., out, r]`.
        right: the right factor `[..., r, in]` of a change of low rank, ΔW = change @ right.
        untie: for a parameter that is shared (an embedding that is the output layer too): change
            this use of it alone. Without it, shared parameters are refused.
        strength: multiplies ΔW, beside the plan's.

    Raises:
        PlanError: not finite.
        DimensionError: factors that don't fit together.
    """

    parameter: str
    change: Tensor
    right: Tensor | None = None
    untie: bool = False
    strength: int | float = 1.0

    def __post_init__(self) -> None:
        """Check the parts and hold them in fp32, copied out of whatever they were views of."""
        who = f"weight edit of {self.parameter}"
        object.__setattr__(self, "change", finite(self.change, who))
        object.__setattr__(self, "strength", finite_strength(self.strength))
        if self.right is None:
            return
        object.__setattr__(self, "right", finite(self.right, who))
        left, right = list(self.change.shape), list(self.right.shape)
        if len(left) < 2 or len(left) != len(right) or left[:-2] != right[:-2]:
            raise DimensionError(f"{who}: factors {left} and {right} don't make a matrix.")
        if left[-1] != right[-2]:
            raise DimensionError(
                f"{who}: factors {left} and {right} don't fit together; "
                "expected [out, r] and [r, in]."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ΔW."""
        if self.right is None:
            return tuple(self.change.shape)
        return (*self.change.shape[:-1], self.right.shape[-1])

    @property
    def label(self) -> str:
        """`change PARAMETER by rank 1`; without factors, `by a full matrix`."""
        kind = "a full matrix" if self.right is None else f"rank {self.change.shape[-1]}"
        return f"change {self.parameter} by {kind}"

    def added(self, device: torch.device) -> Tensor:
        """ΔW in fp32 on `device`."""
        change = self.change.to(device)
        return change if self.right is None else change @ self.right.to(device)
