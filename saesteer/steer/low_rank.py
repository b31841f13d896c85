"""An edit that reads a few directions of an activation and writes to a few others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Resid
from saesteer.errors import DimensionError
from saesteer.models.sites import Site
from saesteer.steer.intervention import Intervention, as_vector, finite
from saesteer.steer.kinds import register_kind


@register_kind
@final
@dataclass(frozen=True, eq=False)
class LowRank(Intervention):
    """h + Oᵀ(A h + b), with A (`read`) and O (`write`) of k rows: 4·k·width FLOP a token."""

    read: Float[Tensor, "k width"]
    bias: Float[Tensor, " k"]
    write: Float[Tensor, "k width"]

    @property
    def width(self) -> int:
        """Size of the rows."""
        return self.write.shape[1]

    def describe(self) -> str:
        """`map of rank 4`."""
        return f"map of rank {self.write.shape[0]}"

    def span(self) -> Float[Tensor, "k width"]:
        """What is written."""
        return self.write

    def delta(self, resid: Resid) -> Resid:
        """Oᵀ(A h + b)."""
        return (resid.float() @ self.read.T + self.bias) @ self.write


def low_rank(site: Site | str, read: Tensor, bias: Tensor, write: Tensor) -> LowRank:
    """Add `write.T @ (read @ h + bias)`.

    Args:
        read, write: `[k, width]`.
        bias: `[k]`.

    Raises:
        DimensionError: they don't fit together.
        PlanError: they are not finite.
    """
    if read.ndim != 2 or read.shape != write.shape or bias.shape != read.shape[:1]:
        raise DimensionError(
            f"low_rank: read {list(read.shape)}, bias {list(bias.shape)} and write "
            f"{list(write.shape)} don't fit together; expected [k, width], [k] and [k, width]."
        )
    rows = (finite(read, "low_rank"), as_vector(bias, "low_rank"), finite(write, "low_rank"))
    return LowRank(Site.parse(site), *rows)
