"""Every method on the real model, as it comes: seconds to fit, dose, effect, KL, peak memory.

A smoke test and no comparison: one strength, a few prompts, no interval, no test split. It shows
whether a method's defaults do something to a real model without destroying its text. A method that
is not about sentiment has a task of its own in `every_method_tasks`.
"""

from __future__ import annotations

import argparse
import gc
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from every_method_tasks import binding, cities, french, sentiment
from timing import Progress

from saesteer import methods
from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError
from saesteer.evals.measure import Bench, dose_of, make_bench, measure
from saesteer.evals.sweep import CALIBRATION_PROMPTS
from saesteer.evals.tasks import Task, load_task
from saesteer.methods import Method
from saesteer.methods.named import METHODS
from saesteer.models import Model, load_model
from saesteer.saes import load_sae
from saesteer.saes.sae import SAE
from saesteer.steer import Plan

MODEL, SAE_REF = "smollm2-135m-instruct", "smollm2-135m-instruct/resid_post.9"
NOTHING, RUINED = 1e-3, 3.0
"""KL in nats a token below which a plan does nothing, and above which text is noise."""
STEPS = 20
"""Steps of the methods that run the whole model forwards and backwards; their default is 100."""


class Ground(NamedTuple):
    """What methods are fitted to."""

    model: Model
    sae: SAE


class Case(NamedTuple):
    """How one method is tried."""

    method: Callable[[Ground], Method]
    task: Callable[[], Task] = sentiment
    n_tokens: int = 24


def _command_v(ground: Ground) -> Method:
    """The one real model that ships is its own donor: what comes back should be the donor's."""
    plan = methods.CAA().fit(ground.model, Contrast.read("sentiment"))
    return methods.CommandV(ground.model, plan)


def _scar(ground: Ground) -> Method:
    """The shipped SAE had no supervised latent, so the one that reads sentiment best stands in."""
    chosen = methods.FeatureSteering(ground.sae, select="activation", mode="clamp")
    edit: Any = chosen.fit(ground.model, Contrast.read("sentiment")).edits[0].intervention
    return methods.SCAR(ground.sae, latent=int(edit.reader.features[0]))


CASES: Mapping[str, Case] = {
    "BindingIDs": Case(lambda _: methods.BindingIDs(), binding, 2),
    "CommandV": Case(_command_v),
    "ExpertNeurons": Case(lambda _: methods.ExpertNeurons(), french),
    "LanguageArithmetics": Case(lambda _: methods.LanguageArithmetics(), french),
    "LinEAS": Case(lambda _: methods.LinEAS(batch_size=16)),
    "LoReFT": Case(lambda _: methods.LoReFT(n_steps=STEPS)),
    "ReFTr1": Case(lambda _: methods.ReFTr1(n_steps=STEPS)),
    "RePS": Case(lambda _: methods.RePS(n_steps=STEPS)),
    "RefusalCliff": Case(lambda _: methods.RefusalCliff(), lambda: load_task("refusal")),
    "ROME": Case(lambda _: methods.ROME(subject="Eiffel Tower"), cities, 2),
    "SCAR": Case(_scar),
}
"""Methods that need more than their defaults, or another task."""
LEFT_OUT = {"MoTE": "the model has no experts and so no router"}


def run(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """One row a method, and those left out with the reason.

    Raises:
        ConfigError: a method of no such name.
    """
    names = list(args.methods or METHODS)
    if unknown := sorted(set(names) - set(METHODS)):
        raise ConfigError(f"--methods: {unknown} do not exist; choose from {', '.join(METHODS)}.")
    ground = Ground(load_model(MODEL, dtype="float32"), load_sae(SAE_REF))
    benches: dict[tuple[str, int], Bench] = {}
    rows: list[dict[str, Any]] = []
    for done, name in enumerate(names):
        progress(done, len(names), name)
        if name not in LEFT_OUT:
            rows.append(_row(ground, name, benches, args))
    return {
        "model": MODEL,
        "prompts": args.prompts,
        "dose": args.dose,
        "rows": rows,
        "left_out": {name: LEFT_OUT[name] for name in names if name in LEFT_OUT},
    }


def _row(
    ground: Ground, name: str, benches: dict[tuple[str, int], Bench], args: argparse.Namespace
) -> dict[str, Any]:
    case = CASES.get(name) or Case(lambda ground: _default(name, ground))
    try:
        task = case.task().limited(args.prompts, args.prompts)
        key = task.name, case.n_tokens
        if key not in benches:
            benches[key] = make_bench(ground.model, task, "validation", case.n_tokens)
        gc.collect()
        _forget_peak()
        began, before = time.perf_counter(), time.process_time()
        plan = case.method(ground).fit(ground.model, task.contrast)
        seconds, cpu = time.perf_counter() - began, time.process_time() - before
        found = _measured(benches[key], plan, args.dose if METHODS[name].has_strength else None)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return {"method": name, "error": told}
    return {
        **{"method": name, "task": task.name, "fit_seconds": seconds, "fit_cpu_seconds": cpu},
        **found,
        "peak_mb": _peak_mb(),
    }


def _default(name: str, ground: Ground) -> Method:
    from saesteer.methods.named import make_method

    return make_method(name, {}, ground.sae)


def _measured(bench: Bench, plan: Plan, dose: float | None) -> dict[str, Any]:
    """The plan as it was fitted, or at a relative dose, where its edits have one."""
    unit = dose_of(bench, plan, CALIBRATION_PROMPTS) if dose else 0.0
    plan = plan.with_strength(dose / unit) if dose and unit else plan
    point = measure(bench, plan)
    plain = bench.unsteered.texts
    changed = sum(a != b for a, b in zip(point.texts, plain, strict=True)) / len(plain)
    ruined = point.kl > RUINED
    return {
        **{
            "strength": point.strength,
            "relative_dose": point.relative_dose,
            "edits": len(plan.edits),
        },
        **{"weight_edits": len(plan.weight_edits), "changed": changed, "effect": point.effect},
        **{"kl": point.kl, "distinct_2": point.distinct_2, "perplexity": point.perplexity},
        "verdict": "ruins" if ruined else "nothing" if point.kl < NOTHING else "moves",
        "example": point.texts[0],
        "unsteered": plain[0],
    }


def _forget_peak() -> None:
    """Start the process's record of its peak memory anew; where there is no such file, don't."""
    refs = Path("/proc/self/clear_refs")
    if refs.exists():
        refs.write_text("5", encoding="ascii")


def _peak_mb() -> float | None:
    """Peak resident memory since then, the model's own 600 MB included; None off Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = status.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
