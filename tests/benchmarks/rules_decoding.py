"""What a rule book of 20 rules adds to one decoding step of SmolLM2, everything included.

Eight concepts (two of them over the prompt), 20 rules, one clamp and a trace that is kept, timed as
`steer` times plans; `again` is no plan at all for a second time, which shows what the machine's
noise does.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from typing import Any

from steer import BASELINE, Step, measured, stepper, twin
from timing import Progress

from saesteer.models import Model, load_model
from saesteer.rules import RuleBook
from saesteer.saes import load_sae
from saesteer.steer import Plan

NAME = "smollm2-135m-instruct"
IN_A_ROW = 5


def book() -> RuleBook:
    """20 rules in three layers over eight concepts of the shipped SAE."""
    features = (5516, 6987, 4144, 6192, 5030, 12, 88, 777)
    concepts = {f"c{i}": {"feature": f, "threshold": 1.0} for i, f in enumerate(features)}
    for name in ("c6", "c7"):
        concepts[name] |= {"aggregate": "prompt", "over": "max"}
    rules = [f"a{i} :- c{i}, not c{(i + 3) % 8}." for i in range(8)]
    rules += [f"b{i} :- a{i}, not a{(i + 1) % 8}, c{(i + 2) % 8}." for i in range(8)]
    rules += [f"act :- b{i}, not c{i + 4}." for i in range(3)] + ["act :- not a0, not a1."]
    raw = {
        "concepts": concepts,
        "rules": "\n".join(rules),
        "acts": {"act": {"clamp": 777, "value": 4.0}},
    }
    return RuleBook.from_dict(raw)


def run(n_steps: int, progress: Progress) -> list[dict[str, Any]]:
    """Overhead in per cent of a step without a plan, at batch 1 and 8."""
    model, plan = load_model(NAME, device="cpu"), book().plan(load_sae(f"{NAME}/resid_post.9"))
    rows = []
    for batch in (1, 8):
        make = partial(contenders, model, plan, batch)
        for row in measured(
            make, n_steps, IN_A_ROW, {"batch": batch, "dtype": "float32"}, progress
        ):
            per_cent = {key: 100 * value for key, value in row["overhead"].items()}
            rows.append({"name": row["name"], "batch": batch, "overhead_percent": per_cent})
    return rows


def contenders(model: Model, plan: Plan, batch: int, stack: ExitStack) -> dict[str, Step]:
    """A timed step under nothing, three times over, and one under the plan."""
    clock = time.perf_counter
    found = {name: stepper(twin(model), batch, clock, stack) for name in (*BASELINE, "again")}
    return {**found, "rules-20": stepper(twin(model), batch, clock, stack, plan)}
