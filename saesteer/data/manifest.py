"""What a cache on disk says of itself: its shards, and what they were made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saesteer.errors import DataError
from saesteer.files import write_text

_NAME = "manifest.json"
_TYPES = {"identity": dict, "rows_per_shard": int, "shards": list, "ended": bool}
_SHARD_TYPES = {"rows": int, "sha256": str, "n_read": int, "n_outliers": int, "state": dict}


def read_manifest(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a cache of these settings, `identity` and `rows_per_shard`; a new one where
    there is none.

    Raises:
        DataError: the folder holds activations of something else, or is no cache.
    """
    saved = _read(folder)
    if saved is None:
        return {**settings, "shards": [], "ended": False}
    for key, here in settings.items():
        if saved[key] != here:
            raise DataError(
                f"{folder} holds activations of something else ({key}: "
                f"{_difference(saved[key], here)}); give another cache.path."
            )
    empty = not saved["shards"]  # an empty text may have been filled since
    return {**saved, "ended": saved["ended"] and not empty}


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Put a manifest in place of the one that is there."""
    write_text(folder / _NAME, json.dumps(manifest))


def no_cache(folder: Path, error: Exception) -> DataError:
    """Says that a folder is no cache, and why."""
    reason = getattr(error, "strerror", None) or error
    return DataError(
        f"{folder} is not an activation cache, or a damaged one ({reason}); give another "
        "cache.path."
    )


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / _NAME).read_text(encoding="utf-8"))
        _check_types(manifest, _TYPES)
        for shard in manifest["shards"]:
            _check_types(shard, _SHARD_TYPES)
        return manifest
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise no_cache(folder, error) from error


def _check_types(entry: Any, types: Mapping[str, type]) -> None:
    for key, kind in types.items():
        if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
            raise ValueError(f"{key!r} is missing or of another type in {_NAME}")


def _difference(saved: Any, here: Any) -> str:
    """The first setting that differs, then and now."""
    if isinstance(saved, dict) and isinstance(here, dict):
        for key in here:
            if saved.get(key) != here[key]:
                return f"{key} {saved.get(key)!r} there, {here[key]!r} here"
    return f"{saved!r} there, {here!r} here"
