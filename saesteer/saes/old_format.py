"""`cfg.json` from before sae-lens 6, told apart and translated as sae-lens itself does."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from saesteer.errors import SaeError

_FACTOR = "norm_scaling_factor"


def modern_cfg(cfg: dict[str, Any], name: str) -> dict[str, Any]:
    """A config in the form of sae-lens 6; `cfg` itself if it has that form.

    Of an old one, sae-lens drops the constant that inputs were scaled by and any metadata that
    somebody added; both are kept.

    Raises:
        SaeError: neither form.
    """
    try:
        if not _is_old(cfg):
            return cfg
        metadata = dict(cfg.get("metadata") or {})
        flat = {key: value for key, value in {**metadata, **cfg}.items() if key != "metadata"}
        made = sae_lens("loading.pretrained_sae_loaders").handle_config_defaulting(flat)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        text = " ".join(str(error).split()).rstrip(".")[:200]
        raise SaeError(f"SAE {name}: cfg.json is not in sae-lens' format: {text}.") from error
    return {**made, "metadata": {**metadata, **made["metadata"]}, _FACTOR: flat.get(_FACTOR)}


def _is_old(cfg: Mapping[str, Any]) -> bool:
    """By its version; without one, by whether it names its hook outside `metadata`."""
    metadata = cfg.get("metadata")
    if not isinstance(metadata, dict):
        return True
    version = cfg.get("sae_lens_version") or metadata.get("sae_lens_version")
    if version:
        return int(str(version).split(".")[0]) < 6
    return "hook_name" in cfg or "hook_point" in cfg


def sae_lens(module: str = "") -> Any:
    """sae-lens or one of its modules, imported now and without its own deprecation warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(f"sae_lens.{module}" if module else "sae_lens")
