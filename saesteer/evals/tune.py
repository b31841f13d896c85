"""Choose site, settings and strength on the validation part alone, under a budget.

Every method that takes a site is fitted at every site on the train part, every other once, at the
place of its SAE or of its own; each is swept upwards through the doses asked for, and no further,
until the budget is spent, and the point with the largest effect within it is chosen. Its effect is
the largest of many, so it flatters itself: what it is worth, only prompts that no choice has seen
can tell.

A row names the places that its plan edits, as fitted. A point has two doses: `dose`, of the grid,
mean ‖Δh‖/‖h‖ on texts that the unsteered model wrote, which fixes the strength; and
`relative_dose`, the same ratio measured while the steered model wrote its own.

Each candidate is written down when it is done, so that an interrupted run goes on where it was.
With another SAE, task, rule book or plan in the file that the config names, it is tried anew.
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
from saesteer.errors import ConfigError
from saesteer.evals.build import build_method, read_method
from saesteer.evals.measure import Bench, make_bench
from saesteer.evals.results import point_row
from saesteer.evals.sweep import Cost, Entry, calibrate, check_doses, curve_on_validation, within
from saesteer.evals.tasks import Task, load_task
from saesteer.files import write_text
from saesteer.methods import Method
from saesteer.methods.named import METHODS
from saesteer.models import Model, Site, load_model
from saesteer.saes import SAE, load_sae
from saesteer.steer import Plan
from saesteer.steer.store import digest_of
from saesteer.tracking import Tracker

Progress = Callable[[int, int, str], None]
MAX_NAMED = 3
"""Places that a label spells out; of more it gives the number."""
_NOT_MEASURED = ("methods", "sites", "wandb")
"""Settings that say what is tried or told, and change no figure of a candidate."""


@dataclass(frozen=True)
class Candidate:
    """One method with its settings and the site it is told; None leaves it its own place."""

    method: str
    settings: Any
    site: Site | None

    @property
    def asked(self) -> str:
        """What is tried, before it is known where that acts."""
        return self.label([] if self.site is None else [str(self.site)])

    def label(self, sites: Sequence[str]) -> str:
        """`FeatureSteering {"n_features": 5} at resid_post.9`, by the places that a plan edits."""
        told = "" if not self.settings else f" {json.dumps(self.settings, default=str)}"
        where = ", ".join(sites) if len(sites) <= MAX_NAMED else f"{len(sites)} sites"
        return f"{self.method}{told}" + (f" at {where}" if sites else "")


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
        ConfigError: an unknown method or setting, or sites of which no method would take one.
        TaskError: an unknown task, or an empty grid.
        SaesteerError: as loading and fitting do.
    """
    task, grid = load_task(config.task).limited(config.n_validation), check_doses(config.doses)
    sae = load_sae(config.sae) if config.sae is not None else None
    specs = [read_method(spec, sae) for spec in config.methods]
    model = load_model(config.model, device=config.device, dtype=config.dtype)
    sae = sae.to(device=model.device) if sae is not None else None
    candidates = _candidates(specs, [model.check_site(site) for site in config.sites])
    search = _Search(model, task, sae, grid, config, out / "tried", resume)
    rows: dict[int, dict[str, Any]] = {}
    for index, candidate in enumerate(candidates):
        row = search.row(candidate, list(rows.values()))
        if row is not None:
            rows[index] = row
            _track(tracker, index, row)
        if progress is not None:
            progress(index + 1, len(candidates), candidate.asked)
    return _choose(search, candidates, rows, config)


def _candidates(specs: Sequence[tuple[str, Any]], sites: Sequence[Site]) -> list[Candidate]:
    """Each method at each site if it takes one, else once."""
    free = [name in METHODS and METHODS[name].takes_site for name, _ in specs]
    if sites and not any(free):
        names = ", ".join(dict.fromkeys(name for name, _ in specs))
        raise ConfigError(
            f"sites: none of the methods takes a site: {names} act where their SAE reads or at "
            "places of their own; leave sites out, or add a method such as CAA."
        )
    return [
        Candidate(name, told, site)
        for (name, told), takes in zip(specs, free, strict=True)
        for site in (sites if takes and sites else [None])
    ]


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
        weights = [model.fingerprint(), sae and sae.fingerprint()]
        asked = [asdict(task.contrast), task.prompts["validation"], repr(task.scorer), task.chat]
        self._same = json.dumps([measured, weights, asked], sort_keys=True, default=str)

    @property
    def bench(self) -> Bench:
        """The validation prompts and what the unsteered model writes on them."""
        if self._bench is None:
            n_tokens = self.config.max_new_tokens
            self._bench = make_bench(self.model, self.task, "validation", n_tokens)
        return self._bench

    def row(
        self, candidate: Candidate, before: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any] | None:
        """The candidate's curve, measured or read back; None if one before it made the same plan.

        A method whose settings name its layers goes there, whatever site it is told.
        """
        told = f"{self._same}|{candidate.asked}|{self._ready(candidate)}"
        key = hashlib.sha256(told.encode()).hexdigest()[:12]
        path = self.folder / f"{key}.json"
        if self.resume and path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        plan, entry = self.fit(candidate)
        digest = None if candidate.site is None else digest_of(plan)
        if digest is not None and any(row["digest"] == digest for row in before):
            return None
        about = {"family": entry.family, "digest": digest}
        row = {**_about(candidate, plan), **about, **self._measured(entry)}
        write_text(path, json.dumps(row, indent=1) + "\n")
        return row

    def _ready(self, candidate: Candidate) -> str:
        """What the rules or the plan in a file do; a method's settings say all of it already."""
        return "" if candidate.method in METHODS else digest_of(self.fit(candidate)[0])

    def fit(self, candidate: Candidate) -> tuple[Plan, Entry]:
        """The candidate's plan as fitted."""
        made = build_method(candidate.method, candidate.settings, self.sae, self.model)
        if isinstance(made, Plan):
            return made, Entry(candidate.asked, "plan", (made,))
        assert isinstance(made, Method)
        plan = made.fit(self.model, self.task.contrast, candidate.site)
        return plan, Entry(candidate.asked, made.family, (plan,), made.has_strength)

    def _measured(self, entry: Entry) -> dict[str, Any]:
        """Points in ascending dose; `budget_left` tells that the largest did not spend it."""
        swept, budget = calibrate(self.bench, entry, self.grid), self.config.budget
        cost = cost_of(budget.of)
        curve = curve_on_validation(
            self.bench, swept, budget.at_most, lambda _: None, cost, stretches=0
        )
        doses = (swept.doses or (None,))[: len(curve.points)]
        rows = [{"dose": d, **point_row(p)} for d, p in zip(doses, curve.points, strict=True)]
        return {
            "points": rows,
            "chosen": within(curve, budget.at_most, cost),
            "budget_left": swept.swept and cost(curve.points[-1]) <= budget.at_most,
        }


def _about(candidate: Candidate, plan: Plan) -> dict[str, Any]:
    """What was tried, and what its plan edits, in its own order: sites, or parameters."""
    edited = [str(edit.intervention.site) for edit in plan.edits]
    sites = list(dict.fromkeys(edited + [act.parameter for act in plan.weight_edits]))
    return {
        "candidate": candidate.label(sites),
        "method": candidate.method,
        "settings": json.loads(json.dumps(candidate.settings, default=str)),
        "sites": sites,
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
        "model": search.model.name,
        "sae": None if search.sae is None else search.sae.name,
        "task": search.task.name,
        "split": "validation",
        "n_prompts": len(bench.prompts),
        "unsteered": {"score": fmean(bench.scores)},
        "budget": asdict(config.budget),
        "doses": list(search.grid),
        "tried": list(rows.values()),
        "chosen": None,
    }
    if not kept:
        return Tuned(results, None, search.model)
    best = max(kept, key=lambda i: kept[i]["points"][kept[i]["chosen"]]["effect"])
    point = kept[best]["points"][kept[best]["chosen"]]
    told = {key: kept[best][key] for key in ("candidate", "method", "settings", "sites", "family")}
    last = kept[best]["chosen"] == len(kept[best]["points"]) - 1
    about = {"at_largest_dose": last and kept[best]["budget_left"], "n_candidates": len(rows)}
    results["chosen"] = {**told, **point, **about}
    plan, _ = search.fit(candidates[best])
    return Tuned(results, plan.with_strength(point["strength"]), search.model)


def _track(tracker: Tracker | None, index: int, row: Mapping[str, Any]) -> None:
    if tracker is None:
        return
    figures = ("relative_dose", "effect", "kl", "perplexity")
    points = [{key: point[key] for key in figures} for point in row["points"]]
    tracker.table(f"tune/{row['candidate']}", points)
    if row["chosen"] is not None:
        chosen = points[row["chosen"]]
        tracker.log(index, {f"tune/{key}": float(chosen[key]) for key in figures})
