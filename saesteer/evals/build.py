"""From a comparison's config to methods, tasks and one report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from saesteer.config import CompareConfig
from saesteer.errors import ConfigError, TaskError
from saesteer.evals.compare import Progress, compare
from saesteer.evals.report import join_results
from saesteer.evals.tasks import load_task
from saesteer.files import path_of
from saesteer.methods import Method
from saesteer.methods.named import METHODS, check_method, make_method
from saesteer.models import Model, load_model
from saesteer.rules import RuleBook
from saesteer.saes import SAE, load_sae
from saesteer.steer import Plan
from saesteer.tracking import Tracker


def run_config(
    config: CompareConfig,
    *,
    reproduce: str | None = None,
    progress: Callable[[str], Progress | None] = lambda _: None,
    tracker: Tracker | None = None,
) -> dict[str, Any]:
    """Run every task of a config; results as `write_report` takes them.

    Args:
        progress: makes one progress callback per task.

    Raises:
        ConfigError: an unknown method or setting.
        TaskError: two tasks of one name.
        SaesteerError: as loading, fitting and comparing do.
    """
    tasks = [load_task(name).limited(config.n_validation, config.n_test) for name in config.tasks]
    names = [task.name for task in tasks]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise TaskError(f"tasks: two are called {double!r}; give each a name of its own.")
    sae = load_sae(config.sae) if config.sae is not None else None
    specs = [read_method(spec, sae) for spec in config.methods]
    model = load_model(config.model, device=config.device, dtype=config.dtype)
    sae = sae.to(device=model.device) if sae is not None else None
    reports = [
        compare(
            model,
            task,
            [build_method(name, settings, sae, model) for name, settings in specs],
            sae=sae,
            site=config.site,
            doses=config.doses,
            kl_budget=config.kl_budget,
            max_new_tokens=config.max_new_tokens,
            seeds=config.seeds,
            reproduce=reproduce,
            progress=progress(task.name),
            tracker=tracker,
        )
        for task in tasks
    ]
    total = sum(report.seconds for report in reports)
    return join_results(*(report.to_dict() for report in reports), seconds=total)


def read_method(spec: str | Mapping[str, Any], sae: SAE | None) -> tuple[str, Any]:
    """A method's name and settings, checked as far as that goes without a model.

    Raises:
        ConfigError: unknown name or setting, or features without an SAE.
    """
    if not isinstance(spec, str) and len(spec) != 1:
        raise ConfigError(f"methods: {dict(spec)} must be one name with its settings.")
    name, settings = (spec, {}) if isinstance(spec, str) else next(iter(spec.items()))
    if name in ("rules", "plan"):
        if not path_of(str(settings), ConfigError).exists():
            raise ConfigError(f"methods: {name}: {settings}: no such file or folder.")
        return name, settings
    if name not in METHODS:
        raise ConfigError(
            f"methods: unknown method {name!r}; known are {', '.join(METHODS)}, rules and plan."
        )
    check_method("methods", name, settings or {}, sae)
    return name, settings or {}


def build_method(name: str, settings: Any, sae: SAE | None, model: Model) -> Method | Plan:
    """The method or plan that `read_method` has checked."""
    if name == "rules":
        return RuleBook.read(settings).plan(sae)
    if name == "plan":
        return Plan.load(settings, model)
    return make_method(name, settings, sae)
