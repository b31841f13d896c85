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

from saesteer.evals.entries import (
    check_methods,
    check_seeds,
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
    check_budget,
    check_doses,
    choose,
    curve_on_validation,
    curves_on_test,
)
from saesteer.evals.tasks import Task, load_task
from saesteer.methods.base import Method
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.saes.load import check_width
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
        methods: methods to fit, or ready plans; the first one is the report's reference.
        sae: for the random-feature control; a `FeatureSteering`'s own if left out.
        site: where dense vectors act; the SAE's, else the first plan's, else a third of the depth.
            A method with an SAE of another site refuses it; what is to act elsewhere, fit yourself
            and give as a plan.
        doses: common grid of relative doses, run upwards until the KL budget is spent.
        kl_budget: nats per token that a chosen strength may cost.
        seeds: of the random directions; the first is also the random feature's.
        controls: add prompting, random directions and a random feature.
        sae_scores, reproduce: printed in the report (the command that makes it again).

    Raises:
        TaskError: an unknown task, a method that is none, an empty grid, a budget that is none, or
            no seed for controls.
        SiteError, ContrastError, DimensionError: from fitting.
    """
    started, steps = time.perf_counter(), _Steps(progress)
    model, task, grid = as_model(model), load_task(task), check_doses(doses)
    check_budget(kl_budget)
    check_methods(methods)
    used_seeds = check_seeds(seeds) if controls else ()
    sae, place = common_site(methods, sae, None if site is None else model.check_site(site))
    if sae is not None:
        check_width(sae, model)
    entries = fit_entries(model, task.contrast, methods, place, steps.tick, asked=site is not None)
    if controls:
        entries += control_entries(model, task, entries, sae, place, used_seeds, steps.tick)
    results, bench = _run(model, task, entries, grid, kl_budget, max_new_tokens, steps)
    settings = {"kl_budget": kl_budget, "doses": list(grid), "seeds": list(used_seeds)}
    report = make_report(bench, task, results, {**settings, "sites": sites_of(entries)})
    seconds = time.perf_counter() - started
    report = replace(report, sae=sae_scores, reproduce=reproduce, seconds=seconds)
    track(tracker, report)
    return report


class _Steps:
    """Counts fits and measured points for a progress bar."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._done = 0
        self._total = 0

    def expect(self, n_more: int) -> None:
        """So many steps are still to come, as far as is known."""
        self._total = self._done + n_more

    def tick(self, what: str) -> None:
        """One more step done."""
        self._done += 1
        self.report(what)

    def report(self, what: str) -> None:
        """Tell how far things are."""
        if self._progress is not None:
            self._progress(self._done, max(self._total, self._done), what)


def _run(
    model: Model,
    task: Task,
    entries: Sequence[Entry],
    grid: Sequence[float],
    kl_budget: float,
    n_tokens: int,
    steps: _Steps,
) -> tuple[list[Result], Bench]:
    """Choose every strength on validation, and only then read the test prompts."""
    steps.expect(sum((1 + len(entry.plans)) * len(grid) for entry in entries))
    chosen = _validate(
        make_bench(model, task, "validation", n_tokens), entries, grid, kl_budget, steps
    )
    steps.expect(sum(result.n_points * len(result.entry.plans) for result in chosen))
    bench = make_bench(model, task, "test", n_tokens)
    results = _test(bench, chosen, steps)
    steps.expect(0)
    steps.report("done")
    return results, bench


def _validate(
    bench: Bench, entries: Sequence[Entry], grid: Sequence[float], kl_budget: float, steps: _Steps
) -> list[Result]:
    """Every entry's chosen point on the validation prompts."""
    results: list[Result] = []
    for entry in entries:
        swept = calibrate(bench, entry, grid)
        curve = curve_on_validation(bench, swept, kl_budget, steps.tick)
        index = choose(curve, kl_budget)
        results.append(Result(swept, curve.points[index], index, len(curve.points)))
    return results


def _test(bench: Bench, results: Sequence[Result], steps: _Steps) -> list[Result]:
    """The same doses on the test prompts, up to the KLs at which curves will be compared."""
    swept = [result for result in results if result.swept.swept]
    reference = results[0].chosen.kl if results[0].swept.swept else 0.0
    furthest = max((result.chosen.kl for result in swept), default=0.0)
    found: list[Result] = []
    for result in results:
        own = furthest if result.entry.name == RANDOM else max(result.chosen.kl, reference)
        curves = curves_on_test(bench, result.swept, result.n_points, own, steps.tick)
        found.append(replace(result, curves=tuple(curves)))
    return found
