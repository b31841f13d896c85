"""From measured curves to the report's plain rows; nothing is measured here.

Comparisons are held at KLs fixed on validation: each method against random directions at the KL of
its own chosen strength, and the reference (the first method given) against every other at its own.
A method without a strength can't be put at another's KL, so others are interpolated at its.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from saesteer.evals.curves import Advantage, Curve, Point, advantage_at_equal_kl, pool
from saesteer.evals.measure import Bench, measure
from saesteer.evals.sweep import Entry, Swept
from saesteer.evals.tasks import Task
from saesteer.models.model import Model
from saesteer.shown import shown
from saesteer.tracking import Tracker

RANDOM = "random direction"
"""The entry whose curves are the null."""
N_SAMPLES = 8
"""Test prompts whose texts are kept in the report."""


@shown
@dataclass(frozen=True)
class Report:
    """Everything one comparison found, as plain values; `write_report` makes the page.

    Attributes:
        compare: one row a method at its chosen strength, on test; the unsteered model first.
        curves: every method's points on test.
        equal_kl: methods against each other at one KL, with paired intervals.
        samples: test prompts with every method's text.
        settings: what the numbers depend on; of one task.
    """

    model: Mapping[str, Any]
    task: str
    compare: tuple[Mapping[str, Any], ...]
    curves: tuple[Mapping[str, Any], ...]
    equal_kl: tuple[Mapping[str, Any], ...]
    samples: tuple[Mapping[str, Any], ...]
    settings: Mapping[str, Any]
    sae: Mapping[str, Any] | None = None
    reproduce: str | None = None
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The results as `results.json` holds them; every entry of a list names its task."""
        plain = asdict(self)
        lists = {key: list(plain[key]) for key in ("compare", "curves", "equal_kl", "samples")}
        return {**plain, **lists, "settings": [plain["settings"]]}


@dataclass(frozen=True)
class Result:
    """One entry after both splits.

    Attributes:
        chosen: the validation point that fixed the strength; `index` is its place on the grid, of
            which validation ran `n_points`.
        curves: on test, one a seed.
    """

    swept: Swept
    chosen: Point
    index: int
    n_points: int
    curves: tuple[Curve, ...] = ()

    @property
    def entry(self) -> Entry:
        """The method and its plans."""
        return self.swept.entry

    @property
    def test_points(self) -> list[Point]:
        """The chosen strength on test, one point a seed."""
        return [curve.points[self.index] for curve in self.curves]


def make_report(
    bench: Bench,
    task: Task,
    results: Sequence[Result],
    settings: Mapping[str, Any],
) -> Report:
    """Rows, curves, comparisons and samples of one task, from its test bench and results."""
    name = task.name
    unsteered = _row(name, "unsteered", "control", [measure(bench, None)], None)
    about = {
        "task": name,
        "unit": task.scorer.unit,
        "reference": results[0].entry.name,
        "n_validation": len(task.prompts["validation"]),
        "n_test": len(task.prompts["test"]),
        "max_new_tokens": bench.n_tokens,
        **settings,
    }
    return Report(
        model=describe_model(bench.model),
        task=name,
        compare=(unsteered, *(_result_row(name, result) for result in results)),
        curves=tuple(_curve(name, result) for result in results),
        equal_kl=tuple(_advantage(name, found) for found in advantages(results)),
        samples=tuple(_samples(bench, task, results)),
        settings=about,
    )


def describe_model(model: Model) -> dict[str, Any]:
    """What identifies a model in a report."""
    return {
        "name": model.name,
        "fingerprint": model.fingerprint(),
        "n_layers": model.n_layers,
        "d_model": model.d_model,
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def advantages(results: Sequence[Result]) -> list[Advantage]:
    """Every comparison that is reported: against random directions, then the reference's others."""
    null = next((list(r.curves) for r in results if r.entry.name == RANDOM), None)
    others = [result for result in results if result.entry.name != RANDOM]
    found: list[Advantage] = []
    if null is not None:
        for result in others:
            found += advantage_at_equal_kl(pool(result.curves), null, [_held_at(result)], RANDOM)
    reference = results[0]
    for other in others:
        if other is not reference:
            kl = _held_at(reference) if other.swept.swept else _held_at(other)
            found += advantage_at_equal_kl(pool(reference.curves), pool(other.curves), [kl])
    return found


def track(tracker: Tracker | None, report: Report) -> None:
    """Hand the table to a tracker, and each chosen effect as a figure of its own."""
    if tracker is None:
        return
    rows = [{**row, "effect_ci": str(row["effect_ci"])} for row in report.compare]
    tracker.table(f"compare/{report.task}", rows)
    figures = {
        f"compare/{report.task}/{row['method']}/{key}": float(row[key])
        for row in report.compare
        for key in ("effect", "kl")
    }
    tracker.log(0, figures)


def _held_at(result: Result) -> float:
    """The KL fixed on validation; for a method without a strength, that of its one test point."""
    return result.chosen.kl if result.swept.swept else result.curves[0].points[0].kl


def _result_row(task: str, result: Result) -> dict[str, Any]:
    entry = result.entry
    return _row(task, entry.name, entry.family, result.test_points, result.chosen)


def _row(
    task: str, method: str, family: str, seeds: Sequence[Point], chosen: Point | None
) -> dict[str, Any]:
    """One method at its chosen strength; several seeds enter as their mean, prompt by prompt."""
    point = pool([Curve(method, (seed,)) for seed in seeds]).points[0]
    return {
        "task": task,
        "method": method,
        "family": family,
        **point_row(point),
        "seconds_per_token": point.seconds_per_token,
        "anti_steered": fmean(seed.anti_steered for seed in seeds),
        "n_prompts": len(point.effects),
        "n_seeds": len(seeds),
        "validation_effect": None if chosen is None else chosen.effect,
        "validation_kl": None if chosen is None else chosen.kl,
    }


def point_row(point: Point) -> dict[str, Any]:
    """What a point measured, as JSON holds it."""
    ends = point.effect_ci
    return {
        "strength": point.strength,
        "relative_dose": point.relative_dose,
        "score": fmean(point.scores),
        "effect": point.effect,
        "effect_ci": [ends.low, ends.high],
        "kl": point.kl,
        "perplexity": point.perplexity,
        "distinct_2": point.distinct_2,
    }


def _curve(task: str, result: Result) -> dict[str, Any]:
    curve = pool(result.curves)
    return {
        "task": task,
        "method": curve.method,
        "family": result.entry.family,
        "swept": curve.swept,
        "points": [point_row(point) for point in curve.points],
    }


def _advantage(task: str, found: Advantage) -> dict[str, Any]:
    ends = found.difference
    return {
        "task": task,
        "method": found.method,
        "against": found.against,
        "kl": found.kl,
        "effect": found.effect,
        "against_effect": found.against_effect,
        "difference": None if ends is None else ends.mean,
        "ci": None if ends is None else [ends.low, ends.high],
        "each": list(found.each),
        "reached": found.reached,
    }


def _samples(bench: Bench, task: Task, results: Sequence[Result]) -> list[dict[str, Any]]:
    prompts = task.prompts["test"][:N_SAMPLES]
    return [
        {
            "task": task.name,
            "prompt": prompt,
            "unsteered": bench.unsteered.texts[row],
            "texts": {r.entry.name: r.test_points[0].texts[row] for r in results},
        }
        for row, prompt in enumerate(prompts)
    ]
