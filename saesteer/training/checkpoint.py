"""Checkpoints that are either whole or not there: written aside, synced, renamed, checksummed.

A checkpoint is a folder `step-00001000/`: every process's part in `rank-0.safetensors`,
`rank-1.safetensors` ..., its place in the text in that file's header, and `state.json` with what is
one for all and the checksums. Nothing in it is pickled. The last few are kept.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from saesteer.errors import CheckpointError, OutputError
from saesteer.files import put_in_place, save_tensors, sha256_of, sync
from saesteer.training.distributed import ALONE, World

_STATE = "state.json"
_PLACE = "place"
_WRITING = ".writing"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on disk, verified when it was opened.

    Attributes:
        state: what is one for all processes.
        files: every process's part, in the order of ranks.
    """

    state: dict[str, Any]
    files: tuple[Path, ...]

    def place(self, rank: int) -> dict[str, Any]:
        """Where the process `rank` was in the text."""
        with safe_open(self.files[rank], "pt") as file:
            return json.loads(file.metadata()[_PLACE])

    def under(self, prefix: str, rank: int | None = None) -> dict[str, Tensor]:
        """Tensors whose names begin with `prefix`, without it; of one process or of any."""
        found = {}
        for path in self.files if rank is None else [self.files[rank]]:
            with safe_open(path, "pt") as file:
                names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
                found |= {name.removeprefix(prefix): file.get_tensor(name) for name in names}
        return found


def write_checkpoint(
    folder: Path,
    step: int,
    state: Mapping[str, Any],
    place: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    keep: int,
    world: World = ALONE,
) -> Path:
    """Save one checkpoint under `folder` and drop all but the newest `keep`.

    Every process calls it with its own place and tensors; none returns before all is on disk.

    Args:
        state: what is one for all processes; the leading one's is written.

    Raises:
        OutputError: the disk is full or the folder can't be written; older ones stay intact.
        PeerError: another process could not write its part.
    """
    final = folder / f"step-{step:08d}"
    scratch = folder / _WRITING / final.name
    with _written_whole(final, scratch.parent):
        if world.leads:
            for killed in (scratch.parent, *folder.glob(".step-*.old")):
                shutil.rmtree(killed, ignore_errors=True)
            scratch.mkdir(parents=True)
        world.wait()
        mine = scratch / f"rank-{world.rank}.safetensors"
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_tensors(whole, mine, {_PLACE: json.dumps(place)})
        sync(mine)
        files = world.gather([mine.name, sha256_of(mine)])
        if world.leads:
            _write_state(scratch / _STATE, {**state, "step": step, "files": files})
            put_in_place([scratch], folder)
        world.wait()
    for old in list_checkpoints(folder)[:-keep] if world.leads else ():
        shutil.rmtree(old, ignore_errors=True)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints under `folder`, oldest first."""
    return sorted(p for p in folder.glob("step-*") if (p / _STATE).is_file())


def open_checkpoint(path: Path) -> Checkpoint:
    """One checkpoint, its checksums verified.

    Raises:
        CheckpointError: damaged or incomplete.
    """
    try:
        state = json.loads((path / _STATE).read_text())
        whole = state.pop("state_sha256") == _sha256_of(state)
        files = [(path / name, digest) for name, digest in state["files"]]
        if not whole or any(sha256_of(file) != digest for file, digest in files):
            raise CheckpointError(
                f"{path} is damaged (checksum differs); delete that folder to resume from the one "
                "before it."
            )
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); delete that folder to resume from the one before it."
        ) from error
    return Checkpoint(state, tuple(file for file, _ in files))


@contextmanager
def _written_whole(final: Path, scratch: Path) -> Iterator[None]:
    """Leave nothing of a checkpoint that could not be finished."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"checkpoint {final} can't be written: {error}.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_state(path: Path, state: dict[str, Any]) -> None:
    path.write_text(json.dumps({**state, "state_sha256": _sha256_of(state)}))


def _sha256_of(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
