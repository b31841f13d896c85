"""Write an SAE in sae-lens' format, so that a crash leaves the old files or the new, never halves.

Both files are written under temporary names beside their targets and then renamed, while the old
ones are kept; a folder that this call made is removed again if it fails.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_never

import torch
from torch import Tensor

from saesteer.errors import OutputError, SaeError
from saesteer.files import path_of, put_in_place, save_tensors
from saesteer.models.placing import as_dtype
from saesteer.saes.crosscoder import Crosscoder, crosscoder_cfg, crosscoder_tensors
from saesteer.saes.lens_format import CFG_NAME, WEIGHTS_NAME, cfg_of, tensors_of
from saesteer.saes.sae import SAE
from saesteer.saes.transcoder import Transcoder, transcoder_cfg, transcoder_tensors

AnyCoder = SAE | Transcoder | Crosscoder
"""Whatever training makes and `save_sae` writes."""


def save_sae(
    sae: AnyCoder,
    folder: str | Path,
    *,
    extra_metadata: Mapping[str, Any] | None = None,
    dtype: torch.dtype | str | None = None,
) -> Path:
    """Write `cfg.json` and `sae_weights.safetensors`; returns the folder.

    A crosscoder's files are this package's own; sae-lens has no format for one.

    Args:
        folder: made if missing; other files in it are left alone.
        extra_metadata: JSON values put beside the model's and hook's name, such as training
            statistics (`dead_fraction` is read by `evaluate_sae`).
        dtype: storage dtype of the matrices (bf16 halves the file); fp32 unless given.

    Raises:
        OutputError: the folder can't be written, or the metadata is not JSON.
        SaeError: no dtype of floats.
    """
    stored = None if dtype is None else as_dtype(dtype, SaeError)
    folder = path_of(folder, OutputError)
    made = not folder.exists()
    try:
        cfg, tensors = _files_of(sae)
        cfg["metadata"] |= extra_metadata or {}
        text = json.dumps(cfg, indent=2)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as scratch:
            weights, config = Path(scratch) / WEIGHTS_NAME, Path(scratch) / CFG_NAME
            save_tensors(_stored(tensors, stored), weights)
            config.write_text(text + "\n", encoding="utf-8")
            put_in_place([weights, config], folder)
    except (OSError, TypeError) as error:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        raise OutputError(f"SAE {sae.name} can't be written to {folder}: {error}") from error
    return folder


def _files_of(sae: AnyCoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    match sae:
        case SAE():
            return cfg_of(sae), tensors_of(sae)
        case Transcoder():
            return transcoder_cfg(sae), transcoder_tensors(sae)
        case Crosscoder():
            return crosscoder_cfg(sae), crosscoder_tensors(sae)
        case _:
            assert_never(sae)


def _stored(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """On the CPU; `dtype` is for matrices only: a threshold is small, and rounding it moves L0."""
    return {
        name: t.detach().to("cpu", (dtype if t.ndim == 2 else None) or torch.float32).contiguous()
        for name, t in tensors.items()
    }
