"""Interleaved timing: every contender runs in every round, so that a slow minute slows them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Progress = Callable[[int, int, str], None]


def interleave(
    contenders: Mapping[str, Callable[[], Any]], rounds: int, progress: Progress
) -> dict[str, list[float]]:
    """Seconds of each contender in each round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            elapsed = time.perf_counter() - began
            if turn:
                seconds[name].append(elapsed)
            progress(turn, rounds, f"{name} {elapsed:.2f} s")
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(slow: list[float], fast: list[float]) -> dict[str, float]:
    """How often `fast` goes into `slow`, round by round."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])
