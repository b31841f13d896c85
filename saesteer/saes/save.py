"""Write an SAE in sae-lens' format, so that a crash leaves the old files or the new, never halves.

Both files are written under temporary names beside their targets and then renamed; a folder that
this call made is removed again if it fails.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from saesteer.errors import OutputError
from saesteer.saes.lens_format import CFG_NAME, WEIGHTS_NAME, cfg_of, tensors_of
from saesteer.saes.sae import SAE


def save_sae(
    sae: SAE,
    folder: str | Path,
    *,
    extra_metadata: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write `cfg.json` and `sae_weights.safetensors`; returns the folder.

    Args:
        folder: made if missing; other files in it are left alone.
        extra_metadata: JSON values put beside the model's and hook's name, such as training
            statistics (`dead_fraction` is read by `evaluate_sae`).
        dtype: storage dtype of the two matrices (bf16 halves the file); fp32 unless given.

    Raises:
        OutputError: the folder can't be written, or the metadata is not JSON.
    """
    folder = Path(folder)
    made = not folder.exists()
    try:
        text = json.dumps(cfg_of(sae, extra_metadata), indent=2)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as scratch:
            weights, cfg = Path(scratch) / WEIGHTS_NAME, Path(scratch) / CFG_NAME
            save_file(tensors_of(sae, dtype), weights)
            cfg.write_text(text + "\n", encoding="utf-8")
            os.replace(weights, folder / WEIGHTS_NAME)
            os.replace(cfg, folder / CFG_NAME)
    except (OSError, SafetensorError, TypeError) as error:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        raise OutputError(f"SAE {sae.name} can't be written to {folder}: {error}") from error
    return folder
