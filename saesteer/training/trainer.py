"""Drives any number of SAEs over one stream to the end of a run: log, checkpoint, stop, resume.

The trainer owns no tensors of a loss and no text of the stream. A run is a folder; whatever stops
it, `--resume` continues it from its last checkpoint with the same batches and the same bits.

In a world of several processes each has a stream of its own, with its share of the text and of
every batch. Where there are at least as many SAEs as processes, each SAE lives on one of them,
which trains it on the whole batch; else all SAEs live on all, and their gradients are averaged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor

from saesteer.config import TrainSAEConfig
from saesteer.data.activations import ActivationStream
from saesteer.data.sources import Columns
from saesteer.errors import TextEndedError
from saesteer.saes import SAE
from saesteer.tracking import Tracker
from saesteer.training.build import sites_of
from saesteer.training.checkpoint import Checkpoint, write_checkpoint
from saesteer.training.coder import StepResult
from saesteer.training.distributed import ALONE, World
from saesteer.training.folder import restoring, state_of
from saesteer.training.learner import Learner
from saesteer.training.loop import Progress, run_to_end
from saesteer.training.passages import PassageStream
from saesteer.training.signals import StopRequest
from saesteer.training.stopwatch import Stopwatch

_STREAM = ":stream"
"""What waiting for batches is timed under; no SAE can have this name."""


@final
@dataclass(eq=False)
class SAETrainer:
    """SAEs in training on one stream, by name; a single one is named "".

    Attributes:
        columns: which columns of a batch each site has.
        learners: the SAEs that live on this process.
        world: the processes of this run; all must call the same methods in the same order.
        spread: whether each SAE lives on one process only.
        weights_of_model: the model's fingerprint, which a resumed run must find again.
        wandb_id: carried through checkpoints so that a resumed run goes on under the same id.
        scorer: held-out scores of an SAE as it stands, taken every `score.every_steps`; it has the
            model to itself.
    """

    config: TrainSAEConfig
    stream: ActivationStream | PassageStream
    columns: Columns
    learners: dict[str, Learner]
    world: World = ALONE
    spread: bool = False
    weights_of_model: str = ""
    wandb_id: str | None = None
    scorer: Callable[[SAE], Mapping[str, float]] | None = None

    def __post_init__(self) -> None:
        self._watch = Stopwatch(next(iter(self.learners.values())).firing.last.device)
        self._logged = (time.perf_counter(), self.step_count)

    @classmethod
    def create(
        cls,
        config: TrainSAEConfig,
        stream: ActivationStream | PassageStream,
        columns: Columns,
        device: Any,
        world: World = ALONE,
    ) -> SAETrainer:
        """A trainer at step 0."""
        saes = list(config.each().items())
        spread = len(saes) >= world.size
        peers = ALONE if spread else world
        learners = {
            name: Learner.create(each, columns.widths_of(sites_of(each)), device, peers)
            for name, each in (saes[world.rank :: world.size] if spread else saes)
        }
        if isinstance(stream, PassageStream):
            for learner in learners.values():
                learner.downstream = stream.divergence
        return cls(config, stream, columns, learners, world, spread)

    @property
    def step_count(self) -> int:
        """Steps done."""
        return next(iter(self.learners.values())).step_count

    def step(self) -> dict[str, StepResult]:
        """One step of every SAE on the same tokens.

        Raises:
            TextEndedError: there is no text left.
        """
        with self._watch.time(_STREAM):
            batch = self.stream.next_batch()
        if batch is None:
            raise self._text_ended()
        if self.spread:
            batch = self.world.rows(batch)
        return {
            name: self._step_of(name, learner, batch) for name, learner in self.learners.items()
        }

    def _text_ended(self) -> TextEndedError:
        had, wanted = self.step_count * self.config.batch_size, self.config.n_tokens
        advice = "add text, raise text.passes, or lower n_tokens"
        if self.config.cache.path:
            advice = "start again with a larger cache.passes, or more text and another cache.path"
        elif had:
            advice = "resume with a larger text.passes, or start again with more text"
        return TextEndedError(f"the text ended after {had:,} of {wanted:,} tokens; {advice}.")

    def _step_of(self, name: str, learner: Learner, batch: Tensor) -> StepResult:
        with self._watch.time(name):
            return learner.step(self.columns.pick(batch, learner.sites))

    @property
    def n_steps(self) -> int:
        """Steps in all."""
        return self.config.n_steps

    @property
    def checkpoint_every_steps(self) -> int:
        """Steps between checkpoints."""
        return self.config.checkpoint_every_steps

    def run(
        self, folder: Path, tracker: Tracker, stop: StopRequest, progress: Progress | None = None
    ) -> bool:
        """Train to the last step; False if a signal stopped it (a checkpoint is then written).

        Raises:
            DataError: the text ended early (one process alone then writes a checkpoint, too), or a
                loss is no number.
            OutputError: a checkpoint can't be written.
        """
        self._logged = (time.perf_counter(), self.step_count)
        try:
            return run_to_end(self, folder, tracker, stop, progress)
        except TextEndedError:
            if self.step_count and self.world.size == 1:
                self.save(folder)
            raise

    def advance(self) -> dict[str, Any]:
        """One step of every SAE, and what to log of it: of most steps nothing."""
        config, results = self.config, self.step()
        done, figures = self.step_count, {}
        if done % config.log_every_steps == 0 or done == config.n_steps:
            figures = {**self.figures(results), **self._rates()}
        if config.score.every_steps and done % config.score.every_steps == 0:
            figures |= self.scores()
        return figures

    def figures(self, results: Mapping[str, StepResult]) -> dict[str, float]:
        """What is logged: of every SAE under its name, and of the stream."""
        own = {name: learner.figures(results[name]) for name, learner in self.learners.items()}
        counts = {name: float(count) for name, count in self.counts().items()}
        return {**self._of_all(own), **counts}

    def scores(self) -> dict[str, Any]:
        """Of every SAE as it stands: how often its latents fired since the last time, and what
        `scorer` says."""
        density = {name: asdict(each.firing.density()) for name, each in self.learners.items()}
        own = {n: {"density": density[n], **self._held_out(each)} for n, each in self.own().items()}
        return self._of_all(own)

    def _held_out(self, learner: Learner) -> Mapping[str, float]:
        """What `scorer` says; only SAEs can stand in for what they read."""
        if self.scorer is None:
            return {}
        sae = learner.to_sae(self.config.model)
        with self.stream.paused():
            return self.scorer(sae) if isinstance(sae, SAE) else {}

    def _rates(self) -> dict[str, float]:
        """Tokens a second since the last log, in all and by stage, and one step's time by SAE."""
        clock, since = self._logged
        self._logged = (time.perf_counter(), self.step_count)
        elapsed, steps = self._logged[0] - clock, self.step_count - since
        seconds, n_tokens = self._watch.read(), steps * self.config.batch_size
        waited = seconds.pop(_STREAM)
        each = {name: {"seconds_per_step": spent / steps} for name, spent in seconds.items()}
        return {
            "tokens_per_second": n_tokens / elapsed,
            "stream_tokens_per_second": n_tokens / waited,
            "stream_share_of_time": waited / elapsed,
            **self._of_all(each),
        }

    def _of_all(self, own: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Figures of the SAEs of all processes, each under its SAE's name."""
        named = {
            f"{name}/{key}" if name else key: value
            for name, figures in own.items()
            for key, value in figures.items()
        }
        return {key: value for part in self.world.gather(named) for key, value in part.items()}

    def counts(self) -> dict[str, int]:
        """Tokens drawn, read and left out, of all processes together."""
        parts = self.world.gather(self.stream.counts())
        return {name: sum(part[name] for part in parts) for name in parts[0]}

    def save(self, folder: Path) -> Path:
        """Write a checkpoint of everything.

        Raises:
            DataError: a weight is no number; what was saved before stays.
            OutputError: the disk is full or the folder can't be written.
        """
        place, stream = self.stream.state()
        tensors = {f"stream.{name}": value for name, value in stream.items()}
        for name, learner in self.own().items():
            tensors |= {f"sae/{name}/{key}": value for key, value in learner.state().items()}
        return write_checkpoint(
            folder / "checkpoints",
            self.step_count,
            state_of(self),
            place,
            tensors,
            self.config.keep_checkpoints,
            self.world,
        )

    def own(self) -> dict[str, Learner]:
        """The SAEs that this process writes to disk; together, each once."""
        return {name: learner for name, learner in self.learners.items() if learner.peers.leads}

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint, also one of another number of processes.

        Raises:
            CheckpointError: it is damaged, or was written under another config.
        """
        with restoring(path, self) as saved:
            for name, learner in self.learners.items():
                learner.restore(saved.under(f"sae/{name}/"), saved.state["step"])
            self._restore_stream(saved)

    def _restore_stream(self, saved: Checkpoint) -> None:
        rank, size, before = self.world.rank, self.world.size, len(saved.files)
        ranks = [rank] if before == size else range(before)
        parts = [(saved.place(each), saved.under("stream.", each)) for each in ranks]
        if before == size:
            self.stream.restore(*parts[0])
        else:
            self.stream.take_over(parts, rank, size)
