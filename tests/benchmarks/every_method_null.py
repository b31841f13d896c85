"""What random directions do on a task: the null that every method of the bench is held against.

A method is one point, at the strength it is fitted with. Random directions are swept at the default
site, and their effects are interpolated, prompt by prompt, at the method's own KL: an effect counts
where it is more than noise of the same damage brings, and more than the method's own acts bring
with their directions lost (`every_method_controls`), which have its size but a KL of their own.
"""

from __future__ import annotations

from statistics import fmean
from typing import Any, NamedTuple

from every_method_controls import scrambled

from saesteer.evals.curves import Curve, Point, advantage_at_equal_kl
from saesteer.evals.measure import Bench, dose_of, make_bench, measure
from saesteer.evals.sweep import CALIBRATION_PROMPTS
from saesteer.evals.tasks import Task
from saesteer.methods import RandomDirection
from saesteer.metrics.intervals import Interval, bootstrap_interval, difference_to_sample
from saesteer.models import Model
from saesteer.steer import Plan

NOTHING, RUINED = 1e-3, 3.0
"""KL in nats a token below which a plan does nothing, and above which text is noise."""
DOSES = (0.15, 0.3, 0.6, 1.2)
SEEDS = 2


class Trial(NamedTuple):
    """A task's prompts with what the plain model writes, and what random directions do to it."""

    bench: Bench
    null: tuple[Curve, ...]


def make_trial(model: Model, task: Task, split: str, n_tokens: int) -> Trial:
    """Measure the plain model and the random directions on the prompts of a split, once."""
    bench = make_bench(model, task, split, n_tokens)
    return Trial(bench, tuple(_swept(bench, task, seed) for seed in range(SEEDS)))


def _swept(bench: Bench, task: Task, seed: int) -> Curve:
    plan = RandomDirection(seed).fit(bench.model, task.contrast)
    unit = dose_of(bench, plan, CALIBRATION_PROMPTS)
    points: list[Point] = []
    for dose in DOSES:
        points.append(measure(bench, plan.with_strength(dose / unit)))
        if points[-1].kl > RUINED:
            break
    return Curve(plan.name, tuple(points))


def at_dose(trial: Trial, plan: Plan, dose: float | None) -> Plan:
    """The plan at a relative dose, where its edits have one, or as it was fitted for None."""
    unit = dose_of(trial.bench, plan, CALIBRATION_PROMPTS) if dose else 0.0
    return plan.with_strength(dose / unit) if dose and unit else plan


def judged(trial: Trial, plan: Plan) -> dict[str, Any]:
    """What the plan does on the trial's prompts, and whether noise would do it too."""
    point, plain = measure(trial.bench, plan), trial.bench.unsteered.texts
    changed = sum(a != b for a, b in zip(point.texts, plain, strict=True)) / len(plain)
    random = advantage_at_equal_kl(Curve(plan.name, (point,), swept=False), trial.null, [point.kl])
    lost = _scrambled(trial, plan, point)
    own = None
    if lost is not None:
        own = difference_to_sample(point.effects, [each.effects for each in lost])
    return {
        **{"strength": point.strength, "relative_dose": point.relative_dose, "changed": changed},
        **{"edits": len(plan.edits), "weight_edits": len(plan.weight_edits)},
        **{"effect": point.effect, "effect_interval": _ends(point.effect_ci)},
        **{"kl": point.kl, "kl_interval": _ends(bootstrap_interval(point.kls))},
        **{"n_prompts": len(plain), "distinct_2": point.distinct_2},
        "perplexity": point.perplexity,
        "random_effect": random[0].against_effect,
        "over_random": _triple(random[0].difference),
        "scrambled_effect": None if lost is None else fmean(each.effect for each in lost),
        "scrambled_kl": None if lost is None else fmean(each.kl for each in lost),
        "over_scrambled": _triple(own),
        "verdict": verdict(point.kl, random[0].difference, own),
        "example": point.texts[0],
        "unsteered": plain[0],
    }


def verdict(kl: float, over_random: Interval | None, over_scrambled: Interval | None) -> str:
    """`works` where the effect is beyond every control that there is; 95 % intervals decide."""
    overs = [over for over in (over_random, over_scrambled) if over is not None]
    if kl < NOTHING:
        return "nothing"
    if kl > RUINED or over_random is None:
        return "ruins"
    if all(over.low > 0 for over in overs):
        return "works"
    return "wrong way" if all(over.high < 0 for over in overs) else "unclear"


def _scrambled(trial: Trial, plan: Plan, point: Point) -> list[Point] | None:
    """The plan with its directions lost, at its own dose, once a seed."""
    plans = [scrambled(plan, trial.bench.model, seed) for seed in range(SEEDS)]
    dose = dose_of(trial.bench, plan, CALIBRATION_PROMPTS) if point.relative_dose else None
    found = [measure(trial.bench, at_dose(trial, each, dose)) for each in plans if each is not None]
    return found or None


def _ends(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _triple(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.mean, interval.low, interval.high]
