"""Strengths: put every plan on one scale, run a common grid, choose on validation.

Methods write their vectors in units of their own, so a common grid of strengths would compare
nothing. A plan's strength multiplies Δh; one forward pass tells what relative dose a strength of 1
means, and the grid is a grid of doses. A plan without an activation edit is one point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from saesteer.errors import TaskError
from saesteer.evals.curves import Curve, Point
from saesteer.evals.measure import Bench, dose_of, measure
from saesteer.methods.base import Family
from saesteer.steer import Plan

DOSES = (0.05, 0.1, 0.15, 0.22, 0.3)
"""Relative doses of the common grid; 0.22 moved sentiment most on the embedded model."""
KL_BUDGET = 2.0
"""Nats per token that a chosen strength may cost; text stays readable to about there."""
CALIBRATION_PROMPTS = 4
"""Prompts read to learn a plan's dose; the dose varies by some percent from prompt to prompt."""
STRETCH, MAX_STRETCHES = 1.35, 4
"""A curve that ends below a KL it is needed at goes on by this factor, at most so many times."""

Tick = Callable[[str], None]


@dataclass(frozen=True)
class Entry:
    """One line of the comparison: a method with its fitted plan, or one plan a seed."""

    name: str
    family: Family
    plans: tuple[Plan, ...]


@dataclass(frozen=True)
class Swept:
    """An entry with the strengths of its grid; `doses` is empty for a plan without a strength.

    `units` holds, for each plan, the relative dose at strength 1.
    """

    entry: Entry
    doses: tuple[float, ...]
    units: tuple[float, ...]

    @property
    def swept(self) -> bool:
        """Whether there is a strength to sweep."""
        return bool(self.doses)

    def plan(self, index: int, dose: float) -> Plan:
        """The plan of one seed at a relative dose."""
        return self.entry.plans[index].with_strength(dose / self.units[index])


def check_doses(doses: Sequence[float]) -> tuple[float, ...]:
    """The grid in ascending order.

    Raises:
        TaskError: an empty grid, or a dose that is not positive.
    """
    if not doses or min(doses) <= 0:
        raise TaskError(f"doses are {list(doses)}; expected one or more numbers above 0.")
    return tuple(sorted({float(dose) for dose in doses}))


def calibrate(bench: Bench, entry: Entry, doses: Sequence[float]) -> Swept:
    """Learn what strength gives which dose; a plan that edits no activation here is one point."""
    units = tuple(
        dose_of(bench, plan.with_strength(1.0), CALIBRATION_PROMPTS) for plan in entry.plans
    )
    swept = all(unit > 0 for unit in units)
    return Swept(entry, tuple(doses) if swept else (), units)


def run_curves(
    bench: Bench, swept: Swept, tick: Tick, *, reach: float = 0.0, first_only: bool = False
) -> list[Curve]:
    """Measure the whole grid, one curve a plan.

    Args:
        reach: KL in nats per token that every curve should go up to; the grid is stretched, by
            `MAX_STRETCHES` steps at most, for a curve that ends below it.
        first_only: only the first seed, which is enough to choose a strength by.
    """
    plans = swept.entry.plans[:1] if first_only else swept.entry.plans
    if not swept.swept:
        points = [_ticked(bench, plan, swept.entry.name, tick) for plan in plans]
        return [Curve(swept.entry.name, (point,), swept=False) for point in points]
    found: list[list[Point]] = [[] for _ in plans]
    for dose in _grid(swept.doses, lambda: min(_max_kl(points) for points in found) >= reach):
        for index, points in enumerate(found):
            points.append(_ticked(bench, swept.plan(index, dose), swept.entry.name, tick))
    return [Curve(swept.entry.name, tuple(points)) for points in found]


def choose(curve: Curve, kl_budget: float) -> int:
    """Index of the point with the largest effect within the budget, else of the smallest KL."""
    within = [i for i, point in enumerate(curve.points) if point.kl <= kl_budget]
    if not within:
        return min(range(len(curve.points)), key=lambda i: curve.points[i].kl)
    return max(within, key=lambda i: curve.points[i].effect)


def _grid(doses: Sequence[float], done: Callable[[], bool]) -> Iterator[float]:
    """The doses, and then larger ones until `done`."""
    yield from doses
    dose = doses[-1]
    for _ in range(MAX_STRETCHES):
        if done():
            return
        dose *= STRETCH
        yield dose


def _max_kl(points: Sequence[Point]) -> float:
    return max((point.kl for point in points), default=0.0)


def _ticked(bench: Bench, plan: Plan, name: str, tick: Tick) -> Point:
    point = measure(bench, plan)
    tick(name)
    return point
