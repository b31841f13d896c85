"""One act of a plan, as a value; nothing here knows a model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import SupportsFloat, final

from saesteer.errors import PlanError
from saesteer.models.sites import Site
from saesteer.steer.gate import Always, Gate
from saesteer.steer.intervention import Intervention
from saesteer.steer.schedule import ReadingSchedule, Schedule
from saesteer.steer.where import Where, generated


@final
@dataclass(frozen=True, eq=False)
class Edit:
    """One act on activations: what, where, whether, how strongly over time, how strongly at all.

    Raises:
        PlanError: a part is not what its name says, or the strength is not finite.
    """

    intervention: Intervention
    where: Where = field(default_factory=generated)
    gate: Gate = field(default_factory=Always)
    schedule: Schedule | ReadingSchedule | None = None
    strength: int | float = 1.0

    def __post_init__(self) -> None:
        """Check the parts; a gate of None is always open."""
        if self.gate is None:
            object.__setattr__(self, "gate", Always())
        parts = {"intervention": Intervention, "where": Where, "gate": Gate}
        if self.schedule is not None and not isinstance(self.schedule, ReadingSchedule):
            parts["schedule"] = Schedule
        for name, kind in parts.items():
            if not isinstance(getattr(self, name), kind):
                got = type(getattr(self, name)).__name__
                raise PlanError(f"Edit: {name} is a {got}, expected a {kind.__name__}.")
        object.__setattr__(self, "strength", finite_strength(self.strength))

    @property
    def reads(self) -> tuple[Site, ...]:
        """Sites whose activations decide whether and how strongly it acts."""
        timed = self.schedule.sites if isinstance(self.schedule, ReadingSchedule) else ()
        return (*self.gate.sites, *timed)

    @property
    def label(self) -> str:
        """`clamp feature 55 to 6 at resid_post.9`."""
        return f"{self.intervention.describe()} at {self.intervention.site}"


def finite_strength(strength: object) -> float:
    """`strength` as a float.

    Raises:
        PlanError: it is no number, NaN or infinite.
    """
    if not isinstance(strength, SupportsFloat) or not math.isfinite(strength):
        raise PlanError(f"strength {strength!r} is not a finite number.")
    return float(strength)
