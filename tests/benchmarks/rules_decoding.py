"""What a rule book of 20 rules adds to one greedy decoding step of SmolLM2, everything included.

Eight concepts (two of them over the prompt), 20 rules, one clamp and a trace that is kept. Plans
come and go around every step, so each is timed once in each round; `again` is no plan at all for a
second time, which shows what the machine's noise does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from timing import Progress, ratios

from saesteer.models import Model, load_model
from saesteer.rules import RuleBook
from saesteer.saes import load_sae
from saesteer.steer import Plan

NAME = "smollm2-135m-instruct"
PROMPT = "The landlord wrote a long letter about the broken heating, and nobody answered it. " * 3


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


@torch.no_grad()
def run(steps: int, progress: Progress) -> list[dict[str, Any]]:
    """Overhead in per cent of a step without a plan, at batch 1 and 8."""
    model, plan = load_model(NAME, device="cpu"), book().plan(load_sae(f"{NAME}/resid_post.9"))
    rows = []
    for batch in (1, 8):
        step = Step(model, batch)
        plans = {"none": None, "again": None, "rules-20": plan}
        seconds: Mapping[str, list[float]] = {name: [] for name in plans}
        for turn in range(steps):
            for name, one in plans.items():
                seconds[name].append(step.time(one))
            progress(turn + 1, steps, f"batch {batch}")
        for name in ("again", "rules-20"):
            over = ratios(seconds[name], seconds["none"])
            per_cent = {key: 100 * (value - 1) for key, value in over.items()}
            rows.append({"name": name, "batch": batch, "overhead_percent": per_cent})
    return rows


class Step:
    """One decoding step after a cached prompt; the cache is cropped back after each."""

    def __init__(self, model: Model, batch: int) -> None:
        self.model = model
        self.ids = model.tokenize([PROMPT] * batch).input_ids
        self.cache = model.hf(self.ids, use_cache=True).past_key_values
        self.length = self.ids.shape[1]

    def time(self, plan: Plan | None) -> float:
        """Seconds of the second of two steps under a plan."""
        if plan is None:
            self._step()
            return self._step()
        with plan.on(self.model, prompt_lengths=self.length):
            self._step()
            return self._step()

    def _step(self) -> float:
        began = time.perf_counter()
        out = self.model.hf(self.ids[:, -1:], past_key_values=self.cache, use_cache=True)
        out.logits[:, -1].argmax(-1)
        taken = time.perf_counter() - began
        self.cache.crop(-1)
        return taken
