"""Stopping a run from outside without losing a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from saesteer.training.distributed import World


@dataclass
class StopRequest:
    """Set from a signal handler; the trainer looks at it between steps."""

    signal: int | None = None

    def agreed(self, world: World) -> bool:
        """Whether any process was asked to stop: one answer, the same for all of them.

        A signal that comes while they agree is kept for the next time.
        """
        number = world.most(self.signal or 0)
        if number:
            self.signal = number
        return number > 0


@contextmanager
def watch_signals() -> Iterator[StopRequest]:
    """SIGTERM and SIGINT ask the run to stop after its step; a second one ends it at once.

    Python takes signals in its main thread only; in another one the request is never set.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, _frame: Any) -> None:
        if stop.signal is not None:
            raise SystemExit(128 + number)
        stop.signal = number

    previous = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
