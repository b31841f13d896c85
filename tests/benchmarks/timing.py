"""Interleaved timing: every contender runs in every round, so that a slow minute slows them all."""

from __future__ import annotations

import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
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


def peak_resident() -> int:
    """The most bytes of memory that this process has held at once.

    Linux hands `ru_maxrss` down from a process to what it starts, so a large parent would hide all
    that its child takes; `VmHWM` begins anew.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return 1024 * int(found[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(slow: list[float], fast: list[float]) -> dict[str, float]:
    """How often `fast` goes into `slow`, round by round."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])
