"""Results made by hand, for tests of what is said and printed about them, and small tasks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest


def row(method: str, family: str, effect: float, **changes: Any) -> dict[str, Any]:
    """A line of `compare`; its interval is the effect ± 0.1."""
    return {
        "task": "sentiment",
        "method": method,
        "family": family,
        "strength": 0.22,
        "relative_dose": 0.22,
        "score": 0.4 + effect,
        "effect": effect,
        "effect_ci": [effect - 0.1, effect + 0.1],
        "kl": 1.5,
        "perplexity": 20.0,
        "distinct_2": 0.8,
        "seconds_per_token": 0.004,
        "anti_steered": 0.125,
        "n_prompts": 24,
        **changes,
    }


def equal(
    method: str, against: str, difference: float | None, spread: float = 0.1
) -> dict[str, Any]:
    """A line of `equal_kl`; None for a KL that one side did not reach."""
    reached = difference is not None
    return {
        "task": "sentiment",
        "method": method,
        "against": against,
        "kl": 1.5,
        "effect": 0.4,
        "against_effect": 0.4 - difference if reached else None,
        "difference": difference,
        "ci": [difference - spread, difference + spread] if reached else None,
        "each": [],
        "reached": reached,
    }


def made_results(
    feature_over_random: float | None = 0.3, feature_over_caa: float = 0.0, **extra: Any
) -> dict[str, Any]:
    """Results of one task: a feature, CAA, prompting and a random direction."""
    rows = [
        row("unsteered", "control", 0.0, strength=0.0, kl=0.0, effect_ci=[0.0, 0.0]),
        row("feature", "feature", 0.4),
        row("CAA", "dense", 0.35),
        row("prompting", "prompt", 0.5, strength=1.0, kl=5.0),
        row("random direction", "control", 0.05),
    ]
    curves = [
        {
            "task": "sentiment",
            "method": r["method"],
            "family": r["family"],
            "swept": r["family"] != "prompt",
            "points": [{**r, "strength": s, "kl": r["kl"] * s / 0.22} for s in (0.1, 0.22)]
            if r["family"] != "prompt"
            else [r],
        }
        for r in rows[1:]
    ]
    equal_kl = [
        equal("feature", "random direction", feature_over_random),
        equal("CAA", "random direction", 0.2),
        equal("prompting", "random direction", None),
        equal("feature", "CAA", feature_over_caa),
    ]
    settings = {"task": "sentiment", "unit": "VADER compound", "reference": "feature",
                "kl_budget": 2.0, "doses": [0.1, 0.22]}  # fmt: skip
    texts = {"feature": "a <b>bright</b> day", "CAA": "a day & a night"}
    samples = [{"task": "sentiment", "prompt": f"Prompt <{i}>", "unsteered": "a day",
                "texts": texts} for i in range(5)]  # fmt: skip
    return {"model": {"name": "tiny"}, "compare": rows, "curves": curves, "equal_kl": equal_kl,
            "samples": samples, "settings": [settings], "seconds": 12.0,
            "reproduce": "saesteer compare X", **extra}  # fmt: skip


@pytest.fixture
def make() -> SimpleNamespace:
    """Makers of results: `row`, `equal`, `results`."""
    return SimpleNamespace(row=row, equal=equal, results=made_results)
