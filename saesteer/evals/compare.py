"""Compare methods on one task: choose strengths on validation, run test once, report at equal KL.

The order matters and is the whole point. Methods are fitted on the contrast's train split; each
one's strength, and the KL at which it will be held against a random direction, are fixed on the
validation prompts; only then are the test prompts read, over the whole grid, once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from saesteer.errors import TaskError
from saesteer.evals.entries import (
    check_methods,
    common_site,
    control_entries,
    fit_entries,
    sites_of,
)
from saesteer.evals.measure import Bench, make_bench
from saesteer.evals.results import RANDOM, Report, Result, make_report, track
from saesteer.evals.sweep import (
    DOSES,
    KL_BUDGET,
    Entry,
    calibrate,
    check_doses,
    choose,
    test_curves,
    validation_curve,
)
from saesteer.evals.tasks import Task, load_task
from saesteer.methods.base import Method
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.saes.sae import SAE
from saesteer.steer import Plan
from saesteer.tracking import Tracker

SEEDS = (0, 1, 2)
"""Seeds of the random directions that together are the null."""

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps expected, what was done); the total may grow."""


def compare(
    model: Model | Any,
    task: str | Task,
    methods: Sequence[Method | Plan],
    *,
    sae: SAE | None = None,
    site: Site | str | None = None,
    doses: Sequence[float] = DOSES,
    kl_budget: float = KL_BUDGET,
    max_new_tokens: int = 32,
    seeds: Sequence[int] = SEEDS,
    controls: bool = True,
    sae_scores: Mapping[str, Any] | None = None,
    reproduce: str | None = None,
    progress: Progress | None = None,
    tracker: Tracker | None = None,
) -> Report:
    """Steer one behaviour by every method and say what each moved and cost.

    Args:
        task: a built-in's name, a task file, or a `Task`.
        methods: methods to fit, or ready plans; the first one is the report's reference.
        sae: for the random-feature control; taken from a `FeatureSteering` if left out.
        site: where dense vectors act; the SAE's, else the first plan's, else a third of the depth.
        doses: common grid of relative doses at which every activation method is run.
        kl_budget: nats per token that a chosen strength may cost.
        seeds: of the random directions; the first is also the random feature's.
        controls: add prompting, random directions and a random feature.
        sae_scores: printed in the report as they are.
        reproduce: the command that makes this report again, printed in it.
        tracker: gets the rows as a table and the chosen effects as figures.

    Raises:
        TaskError: an unknown task, a method that is none, or an empty grid.
        SiteError, ContrastError, DimensionError: from fitting.
    """
    started = time.perf_counter()
    model, task = as_model(model), load_task(task)
    check_methods(methods)
    grid = check_doses(doses)
    if controls and not seeds:
        raise TaskError("seeds is empty; a comparison with controls needs at least one.")
    sae, place = common_site(methods, sae, model.check_site(site) if site is not None else None)
    steps = _Steps(progress)
    entries = fit_entries(model, task.contrast, methods, place, steps.tick)
    if controls:
        entries += control_entries(model, task.contrast, entries, sae, place, seeds, steps.tick)
    steps.expect(len(grid), entries)
    results = _validate(model, task, entries, grid, kl_budget, max_new_tokens, steps.tick)
    bench = make_bench(model, task, "test", max_new_tokens)
    results = _test(bench, results, steps.tick)
    settings = {
        "sites": sites_of(entries),
        "kl_budget": kl_budget,
        "doses": list(grid),
        "seeds": list(seeds) if controls else [],
        "reproduce": reproduce,
    }
    report = make_report(bench, task, results, sae_scores, settings)
    report = replace(report, seconds=time.perf_counter() - started)
    if tracker is not None:
        track(tracker, report)
    return report


class _Steps:
    """Counts measured points for a progress bar."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._done = 0
        self._total = 0

    def expect(self, n_doses: int, entries: Sequence[Entry]) -> None:
        """Validation runs one seed, test all of them; a prompt edit is one point a split."""
        for entry in entries:
            each = 1 if entry.family == "prompt" else n_doses
            self._total += each * (1 + len(entry.plans))

    def tick(self, what: str) -> None:
        """One more step done."""
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, max(self._total, self._done), what)


def _validate(
    model: Model,
    task: Task,
    entries: Sequence[Entry],
    grid: Sequence[float],
    kl_budget: float,
    n_tokens: int,
    tick: Callable[[str], None],
) -> list[Result]:
    """Choose every entry's strength on the validation prompts."""
    bench = make_bench(model, task, "validation", n_tokens)
    results: list[Result] = []
    for entry in entries:
        swept = calibrate(bench, entry, grid)
        curve = validation_curve(bench, swept, kl_budget, tick)
        index = choose(curve, kl_budget)
        results.append(Result(swept, curve.points[index], index, len(curve.points)))
    return results


def _test(bench: Bench, results: Sequence[Result], tick: Callable[[str], None]) -> list[Result]:
    """Run the grid on the test prompts, up to the KLs at which curves will be compared."""
    swept = [result for result in results if result.swept.swept]
    reference = results[0].chosen.kl if results[0].swept.swept else 0.0
    furthest = max((result.chosen.kl for result in swept), default=0.0)
    found: list[Result] = []
    for result in results:
        own = furthest if result.entry.name == RANDOM else max(result.chosen.kl, reference)
        curves = test_curves(bench, result.swept, result.n_points, own, tick)
        found.append(replace(result, curves=tuple(curves)))
    return found
