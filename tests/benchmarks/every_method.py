"""Every method on the real model, as it comes: seconds to fit, dose, effect, KL, peak memory.

One strength, the one that a method has by default; its effect is held against random directions of
the same KL and against its own acts with their directions lost (`every_method_null`), so that
defaults are seen to steer and not only to disturb. It compares no methods: that takes strengths of
equal cost (`saesteer compare`). What is measured is what a method claims (`every_method_tasks`):
most turn neutral openings towards the positives; those that take a behaviour away are given
openings that call for it; gated and local ones must also leave other prompts alone, which is
`beside`. With `--keep`, rows stay in a folder and a run that was stopped goes on from there, if it
is given the same settings.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from every_method_choice import Choice, judged_choice
from every_method_null import SEEDS, Trial, at_dose, judged, make_trial
from every_method_tasks import (
    BINDING,
    BRINGS,
    FACT,
    FOOD_OR_OFFICE,
    GATED,
    LANGUAGE,
    REFUSES,
    TAKES_AWAY,
    TAKES_AWAY_AGAIN,
    Claim,
)
from timing import Progress

from saesteer import methods
from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError
from saesteer.evals.measure import make_bench, measure
from saesteer.evals.tasks import Task
from saesteer.files import json_text, write_text
from saesteer.methods import Method
from saesteer.methods.named import METHODS, make_method
from saesteer.models import Model, load_model
from saesteer.saes import load_sae
from saesteer.saes.sae import SAE
from saesteer.steer import Plan

MODEL, SAE_REF = "smollm2-135m-instruct", "smollm2-135m-instruct/resid_post.9"
STEPS = 20
"""Steps of the methods that run the whole model forwards and backwards; their default is 100."""


class Ground(NamedTuple):
    """What methods are fitted to."""

    model: Model
    sae: SAE


Make = Callable[[Ground], Method]


def _command_v(ground: Ground) -> Method:
    """The one real model that ships is its own donor: what comes back should be the donor's."""
    plan = methods.CAA().fit(ground.model, Contrast.read("sentiment"))
    return methods.CommandV(ground.model, plan)


def _scar(ground: Ground) -> Method:
    """The shipped SAE had no supervised latent, so the one that reads sentiment best stands in."""
    chosen = methods.FeatureSteering(ground.sae, select="activation", mode="clamp")
    edit: Any = chosen.fit(ground.model, Contrast.read("sentiment")).edits[0].intervention
    return methods.SCAR(ground.sae, latent=int(edit.reader.features[0]))


MADE: Mapping[str, Make] = {
    "ActAdd": lambda _: methods.ActAdd("Love", "Hate"),
    "CAST": lambda _: methods.CAST(condition=FOOD_OR_OFFICE),
    "CommandV": _command_v,
    "Controller": lambda _: methods.Controller(condition=FOOD_OR_OFFICE),
    "LinEAS": lambda _: methods.LinEAS(batch_size=16),
    "LoReFT": lambda _: methods.LoReFT(n_steps=STEPS),
    "ReFTr1": lambda _: methods.ReFTr1(n_steps=STEPS),
    "RePS": lambda _: methods.RePS(n_steps=STEPS),
    "ROME": lambda _: methods.ROME(subject="Eiffel Tower"),
    "SCAR": _scar,
}
"""Methods that need more than their defaults."""
CLAIMS: Mapping[str, Claim] = {
    "AurA": TAKES_AWAY,
    "BindingIDs": BINDING,
    "BreakingBadTokens": TAKES_AWAY,
    "CAST": GATED,
    "Controller": GATED,
    "DirectionalAblation": TAKES_AWAY,
    "EigenShift": TAKES_AWAY,
    "ExpertNeurons": LANGUAGE,
    "HNeurons": TAKES_AWAY,
    "LanguageArithmetics": LANGUAGE,
    "LFSteering": TAKES_AWAY_AGAIN,
    "RefusalCliff": REFUSES,
    "ROME": FACT,
    "ToxificationReversal": TAKES_AWAY,
}
"""What methods claim that don't turn neutral text towards the positives."""
LEFT_OUT = {"MoTE": "the model has no experts and so no router"}
Trials = dict[tuple[str, int], Trial]


def run(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """One row a method, and those left out with the reason.

    Raises:
        ConfigError: a method of no such name.
    """
    names = list(args.methods or METHODS)
    if unknown := sorted(set(names) - set(METHODS)):
        raise ConfigError(f"--methods: {unknown} do not exist; choose from {', '.join(METHODS)}.")
    ground = Ground(load_model(MODEL, dtype=args.dtype), load_sae(SAE_REF))
    trials: Trials = {}
    rows: list[dict[str, Any]] = []
    for done, name in enumerate(names):
        progress(done, len(names), name)
        if name not in LEFT_OUT:
            rows.append(_kept(args, name) or _row(ground, name, trials, args))
            _keep(args, rows[-1])
    left_out = {name: LEFT_OUT[name] for name in names if name in LEFT_OUT}
    return {**_setting(args), "rows": rows, "left_out": left_out}


def _setting(args: argparse.Namespace) -> dict[str, Any]:
    """What a row's figures depend on."""
    asked = {name: getattr(args, name) for name in ("dtype", "split", "prompts", "dose")}
    return {"model": MODEL, **asked}


def _kept(args: argparse.Namespace, name: str) -> dict[str, Any] | None:
    """The row of an earlier run with the same settings, unless it failed."""
    file = None if args.keep is None else args.keep / f"{name}.json"
    if file is None or not file.is_file():
        return None
    held = json.loads(file.read_text(encoding="utf-8"))
    same = held.get("setting") == _setting(args)
    return held["row"] if same and "error" not in held["row"] else None


def _keep(args: argparse.Namespace, row: dict[str, Any]) -> None:
    if args.keep is not None:
        text = json_text({"setting": _setting(args), "row": row}, ascii_only=False)
        write_text(args.keep / f"{row['method']}.json", text)


def _row(ground: Ground, name: str, trials: Trials, args: argparse.Namespace) -> dict[str, Any]:
    claim = CLAIMS.get(name, BRINGS)
    make = MADE.get(name) or (lambda ground: make_method(name, {}, ground.sae))
    try:
        task = claim.task().limited(args.prompts, args.prompts)
        plan, costs = _fitted(ground, make, task.contrast)
        if isinstance(task, Choice):
            found = judged_choice(ground.model, task, args.split, plan, SEEDS)
        else:
            trial = _trial(ground, task, claim, trials, args.split)
            plan = at_dose(trial, plan, args.dose if METHODS[name].has_strength else None)
            found = judged(trial, plan)
        beside = _beside(ground, claim, plan, args)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return {"method": name, "error": told}
    return {"method": name, "task": task.name, **costs, **found, **beside}


def _trial(ground: Ground, task: Task, claim: Claim, trials: Trials, split: str) -> Trial:
    """The task's trial, made once a run."""
    key = task.name, claim.n_tokens
    if key not in trials:
        trials[key] = make_trial(ground.model, task, split, claim.n_tokens)
    return trials[key]


def _fitted(ground: Ground, make: Make, contrast: Contrast) -> tuple[Plan, dict[str, Any]]:
    """The plan, with seconds and peak memory of fitting it."""
    gc.collect()
    _forget_peak()
    began, before = time.perf_counter(), time.process_time()
    plan = make(ground).fit(ground.model, contrast)
    seconds, cpu = time.perf_counter() - began, time.process_time() - before
    return plan, {"fit_seconds": seconds, "fit_cpu_seconds": cpu, "peak_mb": _peak_mb()}


def _beside(ground: Ground, claim: Claim, plan: Plan, args: argparse.Namespace) -> dict[str, Any]:
    """What the plan does where it should do nothing."""
    if claim.beside is None:
        return {}
    task = claim.beside().limited(args.prompts, args.prompts)
    point = measure(make_bench(ground.model, task, args.split, claim.n_tokens), plan)
    ends = point.effect_ci
    found = {"effect": point.effect, "effect_interval": [ends.low, ends.high], "kl": point.kl}
    return {"beside": {"task": task.name, **found}}


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
