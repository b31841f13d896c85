"""Choose site, settings and strength on the validation part alone, under a budget.

Every method is fitted at every site on the train part and swept upwards in dose until the budget is
spent; the point with the largest effect within it is chosen. Its effect is the largest of many, so
it flatters itself: what it is worth, only prompts that no choice has seen can tell.

Each candidate is written down when it is done, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from saesteer.config import TuneConfig
from saesteer.evals.build import build_method, read_method
from saesteer.evals.measure import Bench, make_bench
from saesteer.evals.results import point_row
from saesteer.evals.sweep import Cost, Entry, calibrate, check_doses, curve_on_validation, within
from saesteer.evals.tasks import Task, load_task
from saesteer.files import write_text
from saesteer.methods import Method
from saesteer.models import Model, Site, load_model
from saesteer.saes import SAE, load_sae
from saesteer.steer import Plan
from saesteer.tracking import Tracker

Progress = Callable[[int, int, str], None]
_NOT_MEASURED = ("methods", "sites", "wandb")
"""Settings that say what is tried or told, and change no figure of a candidate."""


@dataclass(frozen=True)
class Candidate:
    """One method with its settings at one site; None is the method's own."""

    method: str
    settings: Any
    site: Site | None

    @property
    def label(self) -> str:
        """`FeatureSteering {n_features: 5} at resid_post.9`."""
        told = "" if not self.settings else f" {json.dumps(self.settings, default=str)}"
        return f"{self.method}{told}" + ("" if self.site is None else f" at {self.site}")


@dataclass(frozen=True)
class Tuned:
    """What tuning found: results as JSON holds them, and the chosen plan at its strength."""

    results: dict[str, Any]
    plan: Plan | None
    model: Model


def tune(
    config: TuneConfig,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    tracker: Tracker | None = None,
) -> Tuned:
    """Try every candidate of a config and choose; `out/tried` keeps what is done.

    Args:
        resume: take candidates that `out` already holds for the same config as they are.

    Raises:
        ConfigError: an unknown method or setting.
        TaskError: an unknown task, or an empty grid.
        SaesteerError: as loading and fitting do.
    """
    task, grid = load_task(config.task).limited(config.n_validation), check_doses(config.doses)
    sae = load_sae(config.sae) if config.sae is not None else None
    specs = [read_method(spec, sae) for spec in config.methods]
    model = load_model(config.model, device=config.device, dtype=config.dtype)
    sae = sae.to(device=model.device) if sae is not None else None
    sites = [model.check_site(site) for site in config.sites] or [None]
    candidates = [Candidate(name, told, site) for name, told in specs for site in sites]
    search = _Search(model, task, sae, grid, config, out / "tried", resume)
    rows: list[dict[str, Any]] = []
    for index, candidate in enumerate(candidates):
        rows.append(search.row(candidate))
        _track(tracker, index, rows[-1])
        if progress is not None:
            progress(index + 1, len(candidates), candidate.label)
    return _choose(search, candidates, _distinct(rows), config)


class _Search:
    """What all candidates share; the bench is run when the first one needs it."""

    def __init__(
        self,
        model: Model,
        task: Task,
        sae: SAE | None,
        grid: Sequence[float],
        config: TuneConfig,
        folder: Path,
        resume: bool,
    ) -> None:
        self.model, self.task, self.sae, self.grid = model, task, sae, grid
        self.config, self.folder, self.resume = config, folder, resume
        self._bench: Bench | None = None
        measured = {k: v for k, v in asdict(config).items() if k not in _NOT_MEASURED}
        self._same = json.dumps([measured, model.fingerprint()], sort_keys=True, default=str)

    @property
    def bench(self) -> Bench:
        """The validation prompts and what the unsteered model writes on them."""
        if self._bench is None:
            n_tokens = self.config.max_new_tokens
            self._bench = make_bench(self.model, self.task, "validation", n_tokens)
        return self._bench

    def row(self, candidate: Candidate) -> dict[str, Any]:
        """The candidate's curve, measured or read back."""
        key = hashlib.sha256(f"{self._same}|{candidate.label}".encode()).hexdigest()[:12]
        path = self.folder / f"{key}.json"
        if self.resume and path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        row = self._measured(candidate)
        write_text(path, json.dumps(row, indent=1) + "\n")
        return row

    def fit(self, candidate: Candidate) -> tuple[Plan, Entry]:
        """The candidate's plan as fitted."""
        made = build_method(candidate.method, candidate.settings, self.sae, self.model)
        if isinstance(made, Plan):
            return made, Entry(candidate.label, "plan", (made,))
        assert isinstance(made, Method)
        plan = made.fit(self.model, self.task.contrast, candidate.site)
        return plan, Entry(candidate.label, made.family, (plan,), made.has_strength)

    def _measured(self, candidate: Candidate) -> dict[str, Any]:
        plan, entry = self.fit(candidate)
        swept = calibrate(self.bench, entry, self.grid)
        budget = self.config.budget
        curve = curve_on_validation(
            self.bench, swept, budget.at_most, lambda _: None, cost_of(budget.of)
        )
        index = within(curve, budget.at_most, cost_of(budget.of))
        return {
            "candidate": candidate.label,
            "method": candidate.method,
            "settings": json.loads(json.dumps(candidate.settings, default=str)),
            "sites": sorted({str(edit.intervention.site) for edit in plan.edits}),
            "family": entry.family,
            "points": [point_row(point) for point in curve.points],
            "chosen": index,
        }


def cost_of(name: str) -> Cost:
    """What a budget counts, read from a point."""
    return (lambda point: point.perplexity) if name == "perplexity" else (lambda point: point.kl)


def _choose(
    search: _Search,
    candidates: Sequence[Candidate],
    rows: Mapping[int, dict[str, Any]],
    config: TuneConfig,
) -> Tuned:
    """The best point of all, its plan fitted again, and everything that was tried."""
    kept = {i: row for i, row in rows.items() if row["chosen"] is not None}
    bench = search.bench
    results: dict[str, Any] = {
        "task": search.task.name,
        "split": "validation",
        "n_prompts": len(bench.prompts),
        "unsteered": {"score": fmean(bench.scores)},
        "budget": asdict(config.budget),
        "tried": list(rows.values()),
        "chosen": None,
    }
    if not kept:
        return Tuned(results, None, search.model)
    best = max(kept, key=lambda i: kept[i]["points"][kept[i]["chosen"]]["effect"])
    point = kept[best]["points"][kept[best]["chosen"]]
    told = {key: kept[best][key] for key in ("candidate", "method", "settings", "sites")}
    results["chosen"] = {**told, **point, "n_candidates": len(rows)}
    plan, _ = search.fit(candidates[best])
    return Tuned(results, plan.with_strength(point["strength"]), search.model)


def _distinct(rows: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Rows by candidate; where a method went to one place whatever was asked, the first of them."""
    seen: dict[str, int] = {}
    for index, row in enumerate(rows):
        key = json.dumps([row["method"], row["settings"], row["sites"]], sort_keys=True)
        seen.setdefault(key, index)
    return {index: rows[index] for index in seen.values()}


def _track(tracker: Tracker | None, index: int, row: Mapping[str, Any]) -> None:
    if tracker is None:
        return
    figures = ("relative_dose", "effect", "kl", "perplexity")
    points = [{key: point[key] for key in figures} for point in row["points"]]
    tracker.table(f"tune/{row['candidate']}", points)
    if row["chosen"] is not None:
        chosen = points[row["chosen"]]
        tracker.log(index, {f"tune/{key}": float(chosen[key]) for key in figures})
