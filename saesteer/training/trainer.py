"""Drives steps to the end of a run: schedule, statistics, checkpoints, signals, export.

The trainer owns no tensors of the loss and no text of the stream. A run is a folder; whatever stops
it, `--resume` continues it from its last checkpoint with the same batches and the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saesteer.config import TrainSAEConfig
from saesteer.data.activations import ActivationStream
from saesteer.errors import CheckpointError, DataError
from saesteer.tracking import Tracker
from saesteer.training.checkpoint import list_checkpoints, read_checkpoint, write_checkpoint
from saesteer.training.step import Active, StepResult, TopKModule, sae_loss

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called after steps with (steps done, steps in all, latest figures)."""

_RESUMABLE = frozenset(
    {"device", "checkpoint_every_steps", "keep_checkpoints", "log_every_steps", "wandb"}
)
"""Settings that may change between start and resume, since they change no number."""

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class StopRequest:
    """Set from a signal handler; the trainer looks at it between steps."""

    signal: int | None = None


@dataclass(eq=False)
class SAETrainer:
    """One SAE in training.

    Attributes:
        step_count: optimiser steps done.
        wandb_id: carried through checkpoints so that a resumed run goes on under the same id.
    """

    config: TrainSAEConfig
    stream: ActivationStream
    module: TopKModule
    optimizer: torch.optim.Optimizer
    step_count: int = 0
    wandb_id: str | None = None

    @classmethod
    def create(cls, config: TrainSAEConfig, stream: ActivationStream) -> SAETrainer:
        """A trainer at step 0, its scale and bias set from the stream's first activations."""
        device = stream.model.device
        width = stream.model.layout.width(stream.site)
        module = TopKModule(width, config.d_sae, seed=config.seed, device=device)
        optimizer = torch.optim.Adam(module.parameters(), lr=config.lr, fused=True)
        return cls(config, stream, module, optimizer)

    def step(self, batch: Tensor) -> StepResult:
        """Loss, gradients and update for one batch `[batch, d_model]`."""
        config, module = self.config, self.module
        if self.step_count == 0:
            module.initialise(batch)
        result, active, values = sae_loss(
            module,
            batch,
            k=config.k,
            kind=config.arch,
            dead=self._dead(),
            aux_k=config.aux_k,
            aux_coefficient=config.aux_coefficient,
            dtype=getattr(torch, config.dtype),
        )
        result.loss.backward()
        module.project_decoder_gradient()
        torch.nn.utils.clip_grad_norm_(module.parameters(), config.grad_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step_count)
        self.optimizer.step()
        self.optimizer.zero_grad()
        module.normalise_decoder()
        self._observe(result, active, values)
        self.step_count += 1
        return result

    def run(
        self, folder: Path, tracker: Tracker, stop: StopRequest, progress: Progress | None = None
    ) -> bool:
        """Train to the last step; False if a signal stopped it (a checkpoint is then written).

        Raises:
            DataError: the text ended early, or the loss is no number.
            OutputError: a checkpoint can't be written.
        """
        config = self.config
        for figures in self._steps():
            if figures is not None:
                tracker.log(self.step_count, figures)
                if progress:
                    progress(self.step_count, config.n_steps, figures)
            due = self.step_count % config.checkpoint_every_steps == 0
            if due or stop.signal is not None or self.step_count == config.n_steps:
                self.save(folder)
            if stop.signal is not None and self.step_count < config.n_steps:
                return False
        return True

    def _steps(self) -> Iterator[dict[str, float] | None]:
        """One item per step: figures where they are due, else None."""
        config, clock, since = self.config, time.perf_counter(), self.step_count
        while self.step_count < config.n_steps:
            batch = self.stream.next_batch()
            if batch is None:
                raise DataError(
                    f"the text ended after {self.stream.n_tokens:,} of {config.n_tokens:,} tokens; "
                    "add text, raise text.passes, or lower n_tokens."
                )
            result = self.step(batch)
            if self.step_count % config.log_every_steps and self.step_count != config.n_steps:
                yield None
                continue
            elapsed = time.perf_counter() - clock
            rate = (self.step_count - since) * config.batch_size / elapsed
            clock, since = time.perf_counter(), self.step_count
            yield self._figures(result, rate)

    def _figures(self, result: StepResult, rate: float) -> dict[str, float]:
        figures = {name: float(value.detach()) for name, value in vars(result).items()}
        if not math.isfinite(figures["loss"]):
            raise DataError(_diverged(f"the loss is {figures['loss']}", self.step_count))
        dead = self._dead()
        return {
            **figures,
            "running_threshold": float(self.module.threshold),
            "dead_fraction": 0.0 if dead is None else len(dead) / self.config.d_sae,
            "lr": learning_rate(self.config, self.step_count - 1),
            "n_tokens": float(self.stream.n_tokens),
            "n_read": float(self.stream.n_read),
            "n_outliers": float(self.stream.n_outliers),
            "tokens_per_second": rate,
        }

    def _dead(self) -> Tensor | None:
        quiet = self.step_count * self.config.batch_size - self.module.last_fired
        dead = (quiet > self.config.dead_after_tokens).nonzero().squeeze(1)
        return dead if len(dead) else None

    @torch.no_grad()
    def _observe(self, result: StepResult, active: Active, values: Tensor) -> None:
        tokens_seen = (self.step_count + 1) * self.config.batch_size
        fired = (values > 0).long() * tokens_seen
        self.module.last_fired.scatter_reduce_(0, active.features, fired, "amax")
        rate = 1.0 if self.step_count == 0 else self.config.threshold_rate
        moved = torch.lerp(self.module.threshold, result.threshold, rate)
        self.module.threshold.copy_(torch.where(moved.isfinite(), moved, self.module.threshold))

    def dead_fraction(self, window_tokens: int = 10_000_000) -> float:
        """Share of latents that did not fire in the last `window_tokens` (at most half the run)."""
        seen = self.step_count * self.config.batch_size
        window = min(window_tokens, seen // 2)
        return float((seen - self.module.last_fired > window).float().mean())

    def save(self, folder: Path) -> Path:
        """Write a checkpoint of everything.

        Raises:
            DataError: a weight is no number; what was saved before stays.
            OutputError: the disk is full or the folder can't be written.
        """
        if not all(bool(weight.isfinite().all()) for weight in self.module.parameters()):
            raise DataError(_diverged("a weight is NaN or infinite", self.step_count))
        place, stream = self.stream.state()
        tensors = {f"stream.{n}": t for n, t in stream.items()}
        tensors |= {f"module.{n}": t for n, t in self.module.state_dict().items()}
        for name, parameter in self.module.named_parameters():
            moments = self.optimizer.state.get(parameter, {})
            tensors |= {f"adam.{key}.{name}": value for key, value in moments.items()}
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
            check_same_config(state["config"], asdict(self.config), path)
            self.module.load_state_dict(_under("module.", tensors))
            for name, parameter in self.module.named_parameters():
                moments = {key: tensors[f"adam.{key}.{name}"] for key in _MOMENTS}
                self.optimizer.state[parameter] = {
                    key: value.to(parameter.device) for key, value in moments.items()
                }
            self.stream.restore(state["stream"], _under("stream.", tensors))
            self.step_count, self.wandb_id = state["step"], state["wandb_id"]
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{path} is not a checkpoint of this run: {error!r}") from error


def learning_rate(config: TrainSAEConfig, step: int) -> float:
    """Linear warm-up, flat, linear tail to zero."""
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    tail = config.n_steps - config.decay_from
    fall = min(1.0, (config.n_steps - step) / tail) if tail else 1.0
    return config.lr * rise * fall


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run, if there is one."""
    found = list_checkpoints(folder / "checkpoints")
    return found[-1] if found else None


def check_same_config(saved: Mapping[str, Any], here: Mapping[str, Any], path: Path) -> None:
    """Refuse to resume under settings that would change the numbers.

    Raises:
        CheckpointError: naming each setting that differs.
    """
    then, now = _flat(saved), _flat(here)
    differing = [
        f"{key}: {then.get(key)!r} then, {value!r} now"
        for key, value in now.items()
        if key.partition(".")[0] not in _RESUMABLE and then.get(key) != value
    ]
    if differing:
        raise CheckpointError(
            f"{path} was written under other settings ({'; '.join(differing)}); resume with the "
            "same ones, or start in another folder."
        )


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _diverged(what: str, step: int) -> str:
    return (
        f"{what} at step {step}; lower lr, or look at the activations. "
        "Earlier checkpoints are intact."
    )


@contextmanager
def watch_signals() -> Iterator[StopRequest]:
    """SIGTERM and SIGINT ask the run to stop after its step; a second one ends it at once.

    Python takes signals in its main thread only; in another one the request is never set.
    """
    import signal
    import threading

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


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
