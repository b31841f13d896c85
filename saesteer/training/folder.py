"""A run is a folder: its config, its figures, its checkpoints, and what comes of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from saesteer.config import WandbConfig, dump_config, load_config
from saesteer.errors import CheckpointError, ConfigError, OutputError, SaesteerError
from saesteer.files import locked, path_of, write_text
from saesteer.tracking import (
    JsonlTracker,
    NoTracker,
    Tracker,
    Trackers,
    WandbTracker,
    finishing,
)
from saesteer.training.checkpoint import Checkpoint, list_checkpoints, open_checkpoint
from saesteer.training.distributed import ALONE, World

_CONFIG = "config.resolved.yaml"
_METRICS = "metrics.jsonl"

_RESUMABLE = frozenset(
    {
        *("device", "checkpoint_every_steps", "keep_checkpoints", "log_every_steps"),
        *("wandb", "prefetch", "score", "text.passes"),
    }
)
"""Settings that may change between start and resume, since they change no number; `text.passes`
only what is read behind the last pass of before."""


@runtime_checkable
class Tracked(Protocol):
    """A run as its folder sees it; `wandb_id` is carried through checkpoints.

    Attributes:
        weights_of_model: fingerprint of the model's, which must stay the same.
    """

    config: Any
    world: World
    weights_of_model: str
    wandb_id: str | None

    @property
    def step_count(self) -> int:
        """Steps done."""
        ...


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run, if there is one."""
    found = list_checkpoints(folder / "checkpoints")
    return found[-1] if found else None


def checkpoint_of(
    out: Path, resume: bool, results: Iterable[str], world: World = ALONE
) -> Path | None:
    """The checkpoint to go on from; a run that is not to be resumed must not be there.

    Args:
        results: what a finished run leaves in `out`; without a checkpoint it can't be resumed.
        world: only the leading process looks for what itself may have written since.

    Raises:
        OutputError: there is a run and it is not to be resumed, or it is finished and its
            checkpoints are gone, or no folder can be so called.
    """
    checkpoint = last_checkpoint(path_of(out, OutputError))
    done = next((name for name in results if (out / name).exists()), None)
    if done is not None and checkpoint is None:
        raise OutputError(f"{out} already holds a finished {done}; choose another folder.")
    begun = world.leads and any((out / name).exists() for name in (_CONFIG, _METRICS))
    if not resume and (checkpoint is not None or begun):
        raise OutputError(f"{out} already holds a run; pass --resume, or choose another folder.")
    return checkpoint


def state_of(run: Tracked) -> dict[str, Any]:
    """What a checkpoint says of the run that wrote it."""
    return {
        "config": asdict(run.config),
        "weights_of_model": run.weights_of_model,
        "wandb_id": run.wandb_id,
    }


@contextmanager
def restoring(path: Path, run: Tracked) -> Iterator[Checkpoint]:
    """The checkpoint at `path`, of which the block restores a run; settings and model must be its.

    Raises:
        CheckpointError: it is damaged, was written under another config or with other weights of
            the model, or lacks what the block looks for.
    """
    saved = open_checkpoint(path)
    try:
        check_same_config(saved.state["config"], asdict(run.config), path)
        if saved.state["weights_of_model"] != run.weights_of_model:
            raise CheckpointError(f"{path} was written with other weights of the model.")
        yield saved
        run.wandb_id = saved.state["wandb_id"]
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of this run: {error!r}") from error


@contextmanager
def run_folder(out: Path, run: Tracked, *, resumed: bool) -> Iterator[Tracker]:
    """Make `out`, write its config and open its tracker, which is finished at the end.

    A run that fails before its first step leaves nothing, and what was there as it was.

    Raises:
        OutputError: it can't be written, or another run is at work there.
        CheckpointError: it holds a run under other settings, or something else.
    """
    if not run.world.leads:
        yield NoTracker()
        return
    made = [path for path in (out, *out.parents) if not path.exists()]
    with locked(out):
        if not resumed:
            _check_begun(out, run)
        new = [out / name for name in (_CONFIG, _METRICS) if not (out / name).exists()]
        try:
            write_text(out / _CONFIG, dump_config(run.config))
            with finishing(_open_tracker(out, run, resumed)) as tracker:
                yield tracker
        except SaesteerError:
            if run.step_count == 0:
                for path in new:
                    path.unlink(missing_ok=True)
                if made:
                    shutil.rmtree(out, ignore_errors=True)
                for path in made[1:]:
                    path.rmdir()
            raise


def _check_begun(out: Path, run: Tracked) -> None:
    """A run that ended before its first checkpoint begins again, under the settings it had."""
    if last_checkpoint(out) is not None:
        raise OutputError(f"{out} got a checkpoint from another run just now; pass --resume.")
    path = out / _CONFIG
    if path.exists():
        try:
            begun = load_config(type(run.config), path)
        except ConfigError as error:
            raise CheckpointError(
                f"{path} is no run's like this one; choose another folder."
            ) from error
        check_same_config(asdict(begun), asdict(run.config), path)
    elif (out / _METRICS).exists():
        raise CheckpointError(f"{out / _METRICS} is no run's; choose another folder.")


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
        if _RESUMABLE.isdisjoint((key, key.partition(".")[0])) and then.get(key) != now.get(key)
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
