"""What random directions do on a task: the null that every method of the bench is held against.

A method is one point, at the strength it is fitted with. Random directions are swept at the default
site, and their effects are interpolated, prompt by prompt, at the method's own KL: an effect counts
where it is more than noise of the same damage brings.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from saesteer.evals.curves import Curve, Point, advantage_at_equal_kl
from saesteer.evals.measure import Bench, dose_of, make_bench, measure
from saesteer.evals.sweep import CALIBRATION_PROMPTS
from saesteer.evals.tasks import Task
from saesteer.methods import RandomDirection
from saesteer.models import Model
from saesteer.steer import Plan

NOTHING, RUINED = 1e-3, 3.0
"""KL in nats a token below which a plan does nothing, and above which text is noise."""
DOSES = (0.05, 0.15, 0.3, 0.5, 0.8, 1.2)
SEEDS = 2


class Trial(NamedTuple):
    """A task's prompts with what the plain model writes, and what random directions do to it."""

    bench: Bench
    null: tuple[Curve, ...]


def make_trial(model: Model, task: Task, n_tokens: int) -> Trial:
    """Measure the plain model and the random directions on the validation prompts, once."""
    bench = make_bench(model, task, "validation", n_tokens)
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
    return {
        **{"strength": point.strength, "relative_dose": point.relative_dose, "changed": changed},
        **{"edits": len(plan.edits), "weight_edits": len(plan.weight_edits)},
        **{"effect": point.effect, "kl": point.kl, "n_prompts": len(plain)},
        **{"distinct_2": point.distinct_2, "perplexity": point.perplexity},
        **_beyond_noise(trial, plan.name, point),
        "example": point.texts[0],
        "unsteered": plain[0],
    }


def _beyond_noise(trial: Trial, name: str, point: Point) -> dict[str, Any]:
    """Effect over that of random directions at the same KL, and what it comes to."""
    curve = Curve(name, (point,), swept=False)
    (found,) = advantage_at_equal_kl(curve, trial.null, [point.kl])
    over = found.difference
    interval = None if over is None else [over.mean, over.low, over.high]
    if point.kl < NOTHING:
        verdict = "nothing"
    elif point.kl > RUINED or over is None:
        verdict = "ruins"
    elif over.low > 0:
        verdict = "works"
    else:
        verdict = "wrong way" if over.high < 0 else "unclear"
    return {"random_effect": found.against_effect, "over_random": interval, "verdict": verdict}
