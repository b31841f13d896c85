"""Drives any number of SAEs over one stream to the end of a run: log, checkpoint, stop, resume.

The trainer owns no tensors of a loss and no text of the stream. A run is a folder; whatever stops
it, `--resume` continues it from its last checkpoint with the same batches and the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, final

from saesteer.config import TrainSAEConfig
from saesteer.data.activations import ActivationStream
from saesteer.data.sources import Columns
from saesteer.errors import CheckpointError, DataError
from saesteer.tracking import Tracker
from saesteer.training.build import sites_of
from saesteer.training.checkpoint import list_checkpoints, read_checkpoint, write_checkpoint
from saesteer.training.coder import StepResult
from saesteer.training.learner import Learner, under
from saesteer.training.signals import StopRequest

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called after steps with (steps done, steps in all, latest figures)."""

_RESUMABLE = frozenset(
    {
        *("device", "checkpoint_every_steps", "keep_checkpoints", "log_every_steps"),
        *("wandb", "prefetch"),
    }
)
"""Settings that may change between start and resume, since they change no number."""

_DEFAULTS = {f.name: f.default for f in fields(TrainSAEConfig) if f.default is not MISSING}
"""What settings were in checkpoints that are older than they."""


@final
@dataclass(eq=False)
class SAETrainer:
    """SAEs in training on one stream, by name; a single one is named "".

    Attributes:
        columns: which columns of a batch each site has.
        wandb_id: carried through checkpoints so that a resumed run goes on under the same id.
        stream_seconds: spent waiting for batches since figures were last logged.
    """

    config: TrainSAEConfig
    stream: ActivationStream
    columns: Columns
    learners: dict[str, Learner]
    wandb_id: str | None = None
    stream_seconds: float = 0.0

    @classmethod
    def create(
        cls, config: TrainSAEConfig, stream: ActivationStream, columns: Columns, device: Any
    ) -> SAETrainer:
        """A trainer at step 0."""
        learners = {
            name: Learner.create(each, columns.widths_of(sites_of(each)), device)
            for name, each in config.each().items()
        }
        return cls(config, stream, columns, learners)

    @property
    def step_count(self) -> int:
        """Steps done."""
        return next(iter(self.learners.values())).step_count

    def step(self) -> dict[str, StepResult]:
        """One step of every SAE on the same tokens.

        Raises:
            DataError: the text ended early.
        """
        began = time.perf_counter()
        batch = self.stream.next_batch()
        self.stream_seconds += time.perf_counter() - began
        if batch is None:
            raise DataError(
                f"the text ended after {self.stream.n_tokens:,} of {self.config.n_tokens:,} "
                "tokens; add text, raise text.passes, or lower n_tokens."
            )
        return {
            name: learner.step(self.columns.pick(batch, learner.sites))
            for name, learner in self.learners.items()
        }

    def run(
        self, folder: Path, tracker: Tracker, stop: StopRequest, progress: Progress | None = None
    ) -> bool:
        """Train to the last step; False if a signal stopped it (a checkpoint is then written).

        Raises:
            DataError: the text ended early, or a loss is no number.
            OutputError: a checkpoint can't be written.
        """
        config, clock, since = self.config, time.perf_counter(), self.step_count
        while self.step_count < config.n_steps:
            results = self.step()
            done, last = self.step_count, self.step_count == config.n_steps
            if done % config.log_every_steps == 0 or last:
                elapsed = time.perf_counter() - clock
                rate = (done - since) * config.batch_size / elapsed
                clock, since = time.perf_counter(), done
                waited, self.stream_seconds = self.stream_seconds / elapsed, 0.0
                figures = {
                    **self.figures(results),
                    "tokens_per_second": rate,
                    "stream_share_of_time": waited,
                }
                tracker.log(done, figures)
                if progress:
                    progress(done, config.n_steps, figures)
            if done % config.checkpoint_every_steps == 0 or stop.signal is not None or last:
                self.save(folder)
            if stop.signal is not None and not last:
                return False
        return True

    def figures(self, results: Mapping[str, StepResult]) -> dict[str, float]:
        """What is logged: of every SAE under its name, and of the stream."""
        each = {
            f"{name}/{key}" if name else key: value
            for name, learner in self.learners.items()
            for key, value in learner.figures(results[name]).items()
        }
        return {
            **each,
            "n_tokens": float(self.stream.n_tokens),
            "n_read": float(self.stream.n_read),
            "n_outliers": float(self.stream.n_outliers),
        }

    def save(self, folder: Path) -> Path:
        """Write a checkpoint of everything.

        Raises:
            DataError: a weight is no number; what was saved before stays.
            OutputError: the disk is full or the folder can't be written.
        """
        place, stream = self.stream.state()
        tensors = {f"stream.{name}": value for name, value in stream.items()}
        for name, learner in self.learners.items():
            tensors |= {f"sae.{name}.{key}": value for key, value in learner.state().items()}
        state = {"config": asdict(self.config), "stream": place, "wandb_id": self.wandb_id}
        return write_checkpoint(
            folder / "checkpoints", self.step_count, state, tensors, self.config.keep_checkpoints
        )

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            CheckpointError: it is damaged, or was written under another config.
        """
        state, tensors = read_checkpoint(path)
        try:
            check_same_config(_DEFAULTS | state["config"], asdict(self.config), path)
            for name, learner in self.learners.items():
                learner.restore(under(f"sae.{name}.", tensors), state["step"])
            self.stream.restore(state["stream"], under("stream.", tensors))
            self.wandb_id = state["wandb_id"]
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{path} is not a checkpoint of this run: {error!r}") from error


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run, if there is one."""
    found = list_checkpoints(folder / "checkpoints")
    return found[-1] if found else None


def check_same_config(saved: Mapping[str, Any], here: Mapping[str, Any], path: Path) -> None:
    """Refuse to resume under settings that would change the numbers.

    Raises:
        CheckpointError: naming each setting that differs.
    """
    then, now = dict(_flat(saved)), dict(_flat(here))
    differing = [
        f"{key}: {then.get(key)!r} then, {now.get(key)!r} now"
        for key in now | then
        if key.partition(".")[0] not in _RESUMABLE and then.get(key) != now.get(key)
    ]
    if differing:
        raise CheckpointError(
            f"{path} was written under other settings ({'; '.join(differing)}); resume with the "
            "same ones, or start in another folder."
        )


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings by dotted key; tuples as lists, as JSON has them."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value
