"""Effect against damage: every method as a curve, and methods compared at equal KL.

At equal strength a random direction and a good feature do unequal harm, so comparing them there
says nothing. Here each prompt's effect is interpolated along its method's KL, and two methods are
compared on the same prompts at the same KL. A curve starts at (KL 0, effect 0), where no plan is
installed, and ends at its last measured point: nothing is ever extrapolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from saesteer.metrics.intervals import Interval, bootstrap_interval, difference_to_sample

UNMOVED = 1e-9
"""Effects smaller than this are rounding, not movement."""


@dataclass(frozen=True)
class Point:
    """One method at one strength on one split; the tuples have one entry per prompt.

    Attributes:
        relative_dose: mean ‖Δh‖/‖h‖ over edited positions, outliers out; 0 for a prompt edit.
        scores: task score of each text.
        effects: score minus the score of the unsteered text for the same prompt.
        kls: mean KL(steered ‖ unsteered) of each text, nats per token.
        perplexity: of the generated texts under the unsteered model.
        seconds_per_token: wall seconds of generation per generated token, batched.
    """

    strength: float
    relative_dose: float
    texts: tuple[str, ...]
    scores: tuple[float, ...]
    effects: tuple[float, ...]
    kls: tuple[float, ...]
    perplexity: float
    distinct_2: float
    seconds_per_token: float

    @property
    def kl(self) -> float:
        """Mean KL over prompts, nats per token."""
        return fmean(self.kls)

    @property
    def effect(self) -> float:
        """Mean effect over prompts."""
        return fmean(self.effects)

    @property
    def effect_ci(self) -> Interval:
        """Mean effect with its bootstrap interval over prompts."""
        return bootstrap_interval(self.effects)

    @property
    def anti_steered(self) -> float:
        """Share of prompts that moved the wrong way."""
        return fmean(effect < -UNMOVED for effect in self.effects)


@dataclass(frozen=True)
class Curve:
    """The points of one method on one split, in order of strength.

    `swept` is False for a method without a strength, which is one point and is never interpolated.
    """

    method: str
    points: tuple[Point, ...]
    swept: bool = True

    @property
    def max_kl(self) -> float:
        """The largest KL that was measured."""
        return max(point.kl for point in self.points)


@dataclass(frozen=True)
class Advantage:
    """What `method` moves more than `against` at one KL, per prompt; None where a curve ends.

    `each` holds the mean effect of every curve in `against` (several random directions).
    """

    method: str
    against: str
    kl: float
    effect: float | None
    against_effect: float | None
    difference: Interval | None
    each: tuple[float, ...] = ()

    @property
    def reached(self) -> bool:
        """Whether both sides were measured up to this KL."""
        return self.difference is not None

    @property
    def certain(self) -> bool:
        """Whether the interval of the difference excludes zero, on either side."""
        return self.difference is not None and self.difference.low * self.difference.high > 0


def effects_at(curve: Curve, kl: float) -> tuple[float, ...] | None:
    """Each prompt's effect at a mean KL, linear between neighbouring points; None past the ends.

    A method without a strength has its one point's effects at that point's KL and none elsewhere.
    """
    if not curve.swept:
        only = curve.points[0]
        return only.effects if abs(only.kl - kl) <= 1e-6 * max(1.0, kl) else None
    zero = (0.0, (0.0,) * len(curve.points[0].effects))
    nodes = [zero, *sorted(((p.kl, p.effects) for p in curve.points), key=lambda node: node[0])]
    for (low, before), (high, after) in pairwise(nodes):
        if low <= kl <= high:
            share = 1.0 if high == low else (kl - low) / (high - low)
            return tuple(b + share * (a - b) for b, a in zip(before, after, strict=True))
    return None


def advantage_at_equal_kl(
    curve: Curve,
    against: Curve | Sequence[Curve],
    budgets: Sequence[float],
    name: str | None = None,
) -> list[Advantage]:
    """How much more `curve` moves each prompt than `against`, at each KL of `budgets`.

    Args:
        against: one curve, or several whose effects are averaged per prompt (random seeds as one
            null, of which these are a sample); at a KL that one of them does not reach there is no
            comparison.
        budgets: KLs in nats per token, chosen before the test prompts were read.
        name: what to call `against`; the first curve's method by default.

    Returns:
        One `Advantage` a budget; its interval is a paired bootstrap over prompts, and over the
        curves of `against` where it has several.
    """
    others = [against] if isinstance(against, Curve) else list(against)
    return [_advantage(curve, others, kl, name or others[0].method) for kl in budgets]


def _advantage(curve: Curve, others: Sequence[Curve], kl: float, name: str) -> Advantage:
    own = effects_at(curve, kl)
    found = [effects for other in others if (effects := effects_at(other, kl)) is not None]
    mine = None if own is None else fmean(own)
    if own is None or len(found) < len(others):
        return Advantage(curve.method, name, kl, mine, None, None)
    null = _mean_by_prompt(found)
    return Advantage(
        method=curve.method,
        against=name,
        kl=kl,
        effect=mine,
        against_effect=fmean(null),
        difference=difference_to_sample(own, found),
        each=tuple(fmean(effects) for effects in found) if len(found) > 1 else (),
    )


def pool(curves: Sequence[Curve]) -> Curve:
    """Several curves of one method (random seeds) as their mean, prompt by prompt.

    Only as many points as the shortest has; texts are the first curve's.
    """
    rows = zip(*(curve.points for curve in curves), strict=False)
    return Curve(curves[0].method, tuple(_pool_points(row) for row in rows), curves[0].swept)


def _pool_points(points: Sequence[Point]) -> Point:
    return Point(
        strength=fmean(p.strength for p in points),
        relative_dose=fmean(p.relative_dose for p in points),
        texts=points[0].texts,
        scores=_mean_by_prompt([p.scores for p in points]),
        effects=_mean_by_prompt([p.effects for p in points]),
        kls=_mean_by_prompt([p.kls for p in points]),
        perplexity=fmean(p.perplexity for p in points),
        distinct_2=fmean(p.distinct_2 for p in points),
        seconds_per_token=fmean(p.seconds_per_token for p in points),
    )


def _mean_by_prompt(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(fmean(values) for values in zip(*rows, strict=True))
