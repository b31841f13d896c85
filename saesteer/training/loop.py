"""The loop around whatever is trained: step, log, checkpoint, and stop when asked to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from saesteer.tracking import Tracker
from saesteer.training.distributed import World
from saesteer.training.signals import StopRequest

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called after steps with (steps done, steps in all, latest figures)."""


@runtime_checkable
class Trainable(Protocol):
    """What the loop drives."""

    @property
    def step_count(self) -> int:
        """Steps done."""
        ...

    @property
    def n_steps(self) -> int:
        """Steps in all."""
        ...

    @property
    def checkpoint_every_steps(self) -> int:
        """Steps between checkpoints."""
        ...

    @property
    def world(self) -> World:
        """The processes of the run."""
        ...

    def advance(self) -> Mapping[str, Any]:
        """One step; what to log of it, nothing for most."""
        ...

    def save(self, folder: Path) -> Path:
        """Write a checkpoint of everything."""
        ...


def run_to_end(
    trained: Trainable,
    folder: Path,
    tracker: Tracker,
    stop: StopRequest,
    progress: Progress | None = None,
) -> bool:
    """Train to the last step; False if a signal stopped it (a checkpoint is then written).

    Raises:
        DataError: as the steps do.
        OutputError: a checkpoint can't be written.
    """
    while trained.step_count < trained.n_steps:
        figures = trained.advance()
        done, last = trained.step_count, trained.step_count == trained.n_steps
        if figures:
            tracker.log(done, figures)
            if progress:
                progress(done, trained.n_steps, figures)
        stopping = stop.agreed(trained.world)
        if done % trained.checkpoint_every_steps == 0 or stopping or last:
            trained.save(folder)
        if stopping and not last:
            return False
    return True
