"""Seconds spent in the parts of a step, measured without making a GPU wait."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch


@final
class Stopwatch:
    """Adds up seconds by name; on CUDA by events, which are read when the sums are asked for."""

    def __init__(self, device: torch.device | str) -> None:
        self._cuda = torch.device(device).type == "cuda"
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, Any, Any]] = []

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Time a block under `name`."""
        if not self._cuda:
            began = time.perf_counter()
            yield
            self._seconds[name] += time.perf_counter() - began
            return
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        yield
        ended.record()
        self._events.append((name, began, ended))

    def read(self) -> dict[str, float]:
        """The sums since this was last asked; waits for the device."""
        if self._events:
            torch.cuda.synchronize()
        for name, began, ended in self._events:
            self._seconds[name] += began.elapsed_time(ended) / 1000
        sums = dict(self._seconds)
        self._seconds.clear()
        self._events.clear()
        return sums
