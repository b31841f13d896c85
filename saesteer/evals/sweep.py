"""Strengths: put every plan on one scale, run a common grid, choose on validation.

Methods write their vectors in units of their own, so a common grid of strengths would compare
nothing. A plan's strength multiplies Δh; one forward pass tells what relative dose a strength of 1
means, and the grid is a grid of doses, run upwards until the KL budget is spent. A plan without
an activation edit, or of a method without a strength, is one point.
"""

from __future__ import annotations

import math
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
STRETCH, MAX_STRETCHES = 2.0, 2
"""Beyond the grid doses go on by this factor, at most so many times, for a method whose grid ends
below the KL it is needed at; else a gentle baseline would be judged by its smallest doses alone."""

Tick = Callable[[str], None]
Cost = Callable[[Point], float]
"""What a budget counts of a point."""


@dataclass(frozen=True)
class Entry:
    """One line of the comparison: a method with its fitted plan, or one plan a seed.

    `has_strength` is False for a method whose paper has none; it is then one point, as fitted.
    """

    name: str
    family: Family
    plans: tuple[Plan, ...]
    has_strength: bool = True


@dataclass(frozen=True)
class Swept:
    """An entry with the strengths of its grid; `doses` is empty for a plan without a strength.

    `units` holds, for each plan, the relative dose at strength 1, negative for a plan that came
    with a negative strength: its doses keep that sign.
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


def check_budget(kl_budget: float) -> None:
    """Refuse a bound on KL that is none.

    Raises:
        TaskError: it is not positive and finite.
    """
    if not 0 < kl_budget < math.inf:
        raise TaskError(f"kl_budget is {kl_budget}; expected a number above 0.")


def check_doses(doses: Sequence[float]) -> tuple[float, ...]:
    """The grid in ascending order.

    Raises:
        TaskError: an empty grid, or a dose that is not positive and finite.
    """
    if isinstance(doses, int | float):
        raise TaskError(f"doses is {doses}; give a list of them, the grid that is tried.")
    if not doses or not all(0 < dose < math.inf for dose in doses):
        raise TaskError(f"doses are {list(doses)}; expected one or more numbers above 0.")
    return tuple(sorted({float(dose) for dose in doses}))


def calibrate(bench: Bench, entry: Entry, doses: Sequence[float]) -> Swept:
    """Learn what strength gives which dose; one point if no activation is edited here, or the plan
    came with a strength of 0."""
    units = tuple(_unit(bench, plan) for plan in entry.plans)
    swept = entry.has_strength and all(units)
    return Swept(entry, tuple(doses) if swept else (), units)


def _unit(bench: Bench, plan: Plan) -> float:
    """Relative dose at strength 1, with the sign of the plan's own.

    A gate may stay shut on the first prompts: then all are read.
    """
    if not plan.strength or not (plan.edits or plan.controls):
        return 0.0
    sign = math.copysign(1.0, plan.strength)
    counts = (CALIBRATION_PROMPTS, len(bench.prompts))
    doses = (dose_of(bench, plan.with_strength(sign), count) for count in counts)
    return sign * next(filter(None, doses), 0.0)


def kl_of(point: Point) -> float:
    """The usual cost: KL in nats per token."""
    return point.kl


def curve_on_validation(
    bench: Bench,
    swept: Swept,
    budget: float,
    tick: Tick,
    cost: Cost = kl_of,
    stretches: int = MAX_STRETCHES,
) -> Curve:
    """The first seed's doses in ascending order, up to the first that costs more than the budget.

    Larger ones could not be chosen, and a grid that ends within the budget is stretched.

    Args:
        stretches: how often at most; 0 keeps to the grid.
    """
    points: list[Point] = []
    for plans in _ladder(swept, stretches):
        points.append(_ticked(bench, plans[0], swept.entry.name, tick))
        if cost(points[-1]) > budget:
            break
    return Curve(swept.entry.name, tuple(points), swept.swept)


def curves_on_test(
    bench: Bench, swept: Swept, n_points: int, reach: float, tick: Tick
) -> list[Curve]:
    """The doses that validation ran, once, one curve a seed.

    Args:
        n_points: how many doses validation ran.
        reach: KL in nats per token at which curves will be compared; larger doses are added, as
            far as the ladder goes, until every curve has come so far.
    """
    found: list[list[Point]] = [[] for _ in swept.entry.plans]
    for index, plans in enumerate(_ladder(swept, MAX_STRETCHES + 1)):
        if index >= n_points and min(max(p.kl for p in points) for points in found) >= reach:
            break
        for points, plan in zip(found, plans, strict=True):
            points.append(_ticked(bench, plan, swept.entry.name, tick))
    return [Curve(swept.entry.name, tuple(points), swept.swept) for points in found]


def choose(curve: Curve, kl_budget: float) -> int:
    """Index of the point with the largest effect within the budget, else of the smallest KL."""
    best = within(curve, kl_budget)
    if best is None:
        return min(range(len(curve.points)), key=lambda i: curve.points[i].kl)
    return best


def within(curve: Curve, budget: float, cost: Cost = kl_of) -> int | None:
    """Index of the point with the largest effect within the budget; None if there is none."""
    kept = [i for i, point in enumerate(curve.points) if cost(point) <= budget]
    return max(kept, key=lambda i: curve.points[i].effect) if kept else None


def _ladder(swept: Swept, stretches: int) -> Iterator[list[Plan]]:
    """Every entry's plans, one a seed, at each dose of the grid and then at larger ones.

    Test has one stretch to spare, because a KL met on validation at the very last dose may lie just
    beyond it on test.
    """
    if not swept.swept:
        yield list(swept.entry.plans)
        return
    stretched = (swept.doses[-1] * STRETCH**step for step in range(1, stretches + 1))
    for dose in (*swept.doses, *stretched):
        yield [swept.plan(index, dose) for index in range(len(swept.entry.plans))]


def _ticked(bench: Bench, plan: Plan, name: str, tick: Tick) -> Point:
    point = measure(bench, plan)
    tick(name)
    return point
