"""Checkpoints that are either whole or not there: written aside, synced, renamed, checksummed.

A checkpoint is a folder `step-00001000/` with `tensors.safetensors` and `state.json`; nothing in it
is pickled. The last few are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from saesteer.errors import CheckpointError, OutputError
from saesteer.files import sha256_of, sync

_TENSORS = "tensors.safetensors"
_STATE = "state.json"


def write_checkpoint(
    folder: Path, step: int, state: dict[str, Any], tensors: dict[str, Tensor], keep: int
) -> Path:
    """Save one checkpoint under `folder` and drop all but the newest `keep`.

    Raises:
        OutputError: the disk is full or the folder can't be written; older ones stay intact.
    """
    final = folder / f"step-{step:08d}"
    scratch = folder / f".writing-{step:08d}"
    try:
        for killed in folder.glob(".writing-*"):
            shutil.rmtree(killed, ignore_errors=True)
        scratch.mkdir(parents=True)
        save_file({n: t.contiguous() for n, t in tensors.items()}, scratch / _TENSORS)
        state = {**state, "step": step, "sha256": sha256_of(scratch / _TENSORS)}
        (scratch / _STATE).write_text(json.dumps({**state, "state_sha256": _sha256_of(state)}))
        for path in (scratch / _TENSORS, scratch / _STATE, scratch):
            sync(path)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(scratch, final)
        sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise OutputError(f"checkpoint {final} can't be written: {error}.") from error
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints under `folder`, oldest first."""
    return sorted(p for p in folder.glob("step-*") if (p / _STATE).is_file())


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """State and tensors of one checkpoint.

    Raises:
        CheckpointError: damaged or incomplete.
    """
    try:
        state = json.loads((path / _STATE).read_text())
        own = state.pop("state_sha256", None)  # not there before version 0.1
        if own not in (None, _sha256_of(state)) or state["sha256"] != sha256_of(path / _TENSORS):
            raise CheckpointError(
                f"{path} is damaged (checksum differs); delete that folder to resume from the one "
                "before it."
            )
        return state, load_file(path / _TENSORS)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); delete that folder to resume from the one before it."
        ) from error


def _sha256_of(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
