"""A run is a folder: its config, its figures, its checkpoints, and what comes of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from saesteer.config import WandbConfig, dump_config
from saesteer.errors import CheckpointError, OutputError, SaesteerError
from saesteer.files import path_of
from saesteer.tracking import JsonlTracker, NoTracker, Tracker, Trackers, WandbTracker
from saesteer.training.checkpoint import Checkpoint, list_checkpoints, open_checkpoint
from saesteer.training.distributed import World

_CONFIG = "config.resolved.yaml"
_METRICS = "metrics.jsonl"

_RESUMABLE = frozenset(
    {
        *("device", "checkpoint_every_steps", "keep_checkpoints", "log_every_steps"),
        *("wandb", "prefetch", "score"),
    }
)
"""Settings that may change between start and resume, since they change no number."""


@runtime_checkable
class Tracked(Protocol):
    """A run as its folder sees it; `wandb_id` is carried through checkpoints."""

    config: Any
    world: World
    wandb_id: str | None

    @property
    def step_count(self) -> int:
        """Steps done."""
        ...


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run, if there is one."""
    found = list_checkpoints(folder / "checkpoints")
    return found[-1] if found else None


def checkpoint_of(out: Path, resume: bool, result: str) -> Path | None:
    """The checkpoint to go on from; a run that is not to be resumed must not be there.

    Args:
        result: what a finished run leaves in `out`.

    Raises:
        OutputError: there is a run and it is not to be resumed, or no folder can be so called.
    """
    checkpoint = last_checkpoint(path_of(out, OutputError))
    if not resume and (checkpoint is not None or (out / result).exists()):
        raise OutputError(f"{out} already holds a run; pass --resume, or choose another folder.")
    return checkpoint


@contextmanager
def restoring(path: Path, run: Tracked) -> Iterator[Checkpoint]:
    """The checkpoint at `path`, of which the block restores a run; its settings must be the run's.

    Raises:
        CheckpointError: it is damaged, was written under another config, or lacks what the block
            looks for.
    """
    saved = open_checkpoint(path)
    try:
        check_same_config(saved.state["config"], asdict(run.config), path)
        yield saved
        run.wandb_id = saved.state["wandb_id"]
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of this run: {error!r}") from error


@contextmanager
def run_folder(out: Path, run: Tracked, *, resumed: bool) -> Iterator[Tracker]:
    """Make `out`, write its config and open its tracker, which is finished at the end.

    A run that fails before its first step leaves nothing.

    Raises:
        OutputError: it can't be written.
    """
    if not run.world.leads:
        yield NoTracker()
        return
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / _CONFIG).write_text(dump_config(run.config), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{out} can't be written: {error.strerror}.") from error
    try:
        tracker = _open_tracker(out, run, resumed)
        try:
            yield tracker
        finally:
            tracker.finish()
    except SaesteerError:
        if run.step_count == 0:
            for name in (_CONFIG, _METRICS):
                (out / name).unlink(missing_ok=True)
            if made:
                shutil.rmtree(out, ignore_errors=True)
        raise


def _open_tracker(out: Path, run: Tracked, resumed: bool) -> Tracker:
    """`metrics.jsonl` in `out`, and wandb where the config asks for it."""
    step = run.step_count if resumed else None
    wandb: WandbConfig = run.config.wandb
    trackers: list[Tracker] = []
    if wandb.project is not None:
        tracker = WandbTracker(
            project=wandb.project,
            name=wandb.name,
            mode=wandb.mode,
            folder=out,
            config=asdict(run.config),
            run_id=run.wandb_id,
        )
        run.wandb_id = tracker.run_id
        trackers.append(tracker)
    return Trackers(JsonlTracker(out / _METRICS, step), *trackers)


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
