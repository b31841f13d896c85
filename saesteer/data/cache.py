"""Activations on disk: written once from a source, read many times, never half there.

A folder of numbered safetensors shards and a `manifest.json`, which names each shard with its
checksum and the source's place behind it. So writing resumes at the last whole shard, and a shard
that was lost or damaged is made again from the place before it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from saesteer.data.sources import Chunk, Source
from saesteer.errors import DataError, OutputError
from saesteer.files import save_tensors, sha256_of, size_text, sync, write_text

_MANIFEST = "manifest.json"
_MANIFEST_TYPES = {"identity": dict, "rows_per_shard": int, "shards": list, "ended": bool}
_SHARD_TYPES = {"rows": int, "sha256": str, "n_read": int, "n_outliers": int, "state": dict}
_SPARE_SHARE = 1.02
"""Disk asked for, as a multiple of the tensors' own bytes."""


@final
class ActivationCache:
    """A folder of activations with what they were made from.

    Args:
        identity: whatever the activations depend on (model, sites, text, dtype ...), as JSON.
        rows_per_shard: 65,536 rows of width 576 in bf16 are 75 MB.

    Raises:
        DataError: the folder holds activations of something else, or is no cache.
    """

    def __init__(
        self,
        folder: str | Path,
        identity: Mapping[str, Any],
        *,
        width: int,
        dtype: torch.dtype,
        rows_per_shard: int = 65_536,
    ) -> None:
        self.folder = Path(folder)
        self._width, self._dtype, self._rows_per_shard = width, dtype, rows_per_shard
        fresh = {
            "identity": json.loads(json.dumps(identity)),
            "rows_per_shard": rows_per_shard,
            "shards": [],
            "ended": False,
        }
        self.manifest: dict[str, Any] = _read_manifest(self.folder) or fresh
        for key in ("identity", "rows_per_shard"):
            if self.manifest[key] != fresh[key]:
                raise DataError(
                    f"{self.folder} holds activations of something else ({key}: "
                    f"{_difference(self.manifest[key], fresh[key])}); give another cache.path."
                )

    @property
    def n_rows(self) -> int:
        """Rows that are on disk."""
        return sum(shard["rows"] for shard in self.manifest["shards"])

    def bytes_for(self, n_rows: int) -> int:
        """Disk that `n_rows` take, in bytes."""
        return int(n_rows * self._width * self._dtype.itemsize * _SPARE_SHARE)

    def fill(self, source: Source, n_rows: int) -> Iterator[tuple[int, int]]:
        """Write shards until `n_rows` are there or the source ends; mend what is missing.

        Yields:
            rows written and rows wanted, after each shard; to stop there loses nothing.

        Raises:
            DataError: the text has changed since the shards were written.
            OutputError: the disk is too small (before anything is written), full, or read-only.
        """
        start, shards = source.state(), self.manifest["shards"]
        if shards:
            self._go_behind(-1, source)  # also where nothing is missing: the text may be another
        else:
            self.manifest["ended"] = False  # an empty text may have been filled since
        self._mend(source, start)
        missing = n_rows - self.n_rows
        if missing <= 0 or self.manifest["ended"]:
            return
        self._check_space(missing)
        if shards:
            self._go_behind(-1, source)
        while self.n_rows < n_rows and not self.manifest["ended"]:
            self._append(source)
            yield min(self.n_rows, n_rows), n_rows

    def path_of(self, index: int) -> Path:
        """The file of a shard."""
        return self.folder / f"shard-{index:05d}.safetensors"

    def read(self, index: int, *, verify: bool) -> Tensor:
        """The rows of a shard.

        Raises:
            DataError: it is missing or damaged.
        """
        path, shard = self.path_of(index), self.manifest["shards"][index]
        try:
            if verify and sha256_of(path) != shard["sha256"]:
                raise DataError(f"{path} is damaged (checksum differs); {_MENDING}")
            return load_file(path)["rows"]
        except (OSError, KeyError, SafetensorError) as error:
            raise DataError(f"{path} can't be read ({error}); {_MENDING}") from error

    def _go_behind(self, index: int, source: Source) -> None:
        """Bring the source to where it stood when a shard was written."""
        try:
            source.restore(self.manifest["shards"][index]["state"])
        except DataError as error:
            raise DataError(f"{self.folder} holds activations of another text: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _no_cache(self.folder, error) from error

    def _append(self, source: Source) -> None:
        """Collect one shard's chunks and write it; the manifest names it once it is on disk."""
        chunks, self.manifest["ended"] = _collect(source, self._rows_per_shard)
        if chunks:
            entry = self._write_shard(len(self.manifest["shards"]), chunks)
            self.manifest["shards"].append({**entry, "state": source.state()})
        self._write_manifest()

    def _write_shard(self, index: int, chunks: list[Chunk]) -> dict[str, Any]:
        rows = torch.cat([chunk.rows for chunk in chunks]).cpu().to(self._dtype)
        path = self.path_of(index)
        scratch = path.with_suffix(".writing")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_tensors({"rows": rows}, scratch)
            digest = sha256_of(scratch)
            sync(scratch)
            os.replace(scratch, path)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise OutputError(f"cache shard {path} can't be written: {error}.") from error
        counts = {name: sum(getattr(c, name) for c in chunks) for name in ("n_read", "n_outliers")}
        return {"rows": len(rows), "sha256": digest, **counts}

    def _mend(self, source: Source, start: dict[str, Any]) -> None:
        """Make again the shards whose files are gone; `start` is the source's beginning."""
        for index, shard in enumerate(self.manifest["shards"]):
            if self.path_of(index).is_file():
                continue
            if index:
                self._go_behind(index - 1, source)
            else:
                source.restore(start)
            chunks, ended = _collect(source, shard["rows"])
            if ended:
                raise DataError(f"{self.path_of(index)} is gone and its text has ended.")
            self.manifest["shards"][index] |= self._write_shard(index, chunks)
            self._write_manifest()

    def _check_space(self, n_rows: int) -> None:
        place = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        needed, free = self.bytes_for(n_rows), shutil.disk_usage(place).free
        if needed > free:
            raise OutputError(
                f"the cache needs {size_text(needed)} more in {self.folder}, and "
                f"{size_text(free)} are free; lower n_tokens or give another cache.path."
            )

    def _write_manifest(self) -> None:
        write_text(self.folder / _MANIFEST, json.dumps(self.manifest))


@final
class CachedSource:
    """The shards of a cache, in order in the first pass and in a seeded order in later ones.

    Each file is verified when it is first read.
    """

    def __init__(self, cache: ActivationCache, *, passes: int = 1, seed: int = 0) -> None:
        self._cache = cache
        self._passes = passes
        self._seed = seed
        self._next = 0
        self._verified: set[int] = set()

    def next_chunk(self) -> Chunk | None:
        """The next shard; None once every pass is over."""
        shards = self._cache.manifest["shards"]
        if self._next >= self._passes * len(shards):
            return None
        turn, place = divmod(self._next, len(shards))
        index = self._order(turn, len(shards))[place]
        rows = self._cache.read(index, verify=index not in self._verified)
        self._verified.add(index)
        self._next += 1
        return Chunk(rows, shards[index]["n_read"], shards[index]["n_outliers"])

    def skip(self) -> bool:
        """Go behind the next shard without reading it; False once every pass is over."""
        if self._next >= self._passes * len(self._cache.manifest["shards"]):
            return False
        self._next += 1
        return True

    def state(self) -> dict[str, Any]:
        """How many shards have been handed out or passed over."""
        return {"shards_read": self._next}

    def restore(self, state: dict[str, Any]) -> None:
        """Go behind so many shards."""
        self._next = state["shards_read"]

    def _order(self, turn: int, n: int) -> list[int]:
        order = list(range(n))
        if turn:
            random.Random(f"{self._seed}.{turn}").shuffle(order)
        return order


_MENDING = "delete that file, and it will be made again from the text."


def _collect(source: Source, n_rows: int) -> tuple[list[Chunk], bool]:
    """Chunks of at least `n_rows` rows together, and whether the source ended before that."""
    chunks: list[Chunk] = []
    missing = n_rows
    while missing > 0:
        chunk = source.next_chunk()
        if chunk is None:
            return chunks, True
        chunks.append(chunk)
        missing -= len(chunk.rows)
    return chunks, False


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        _check_types(manifest, _MANIFEST_TYPES)
        for shard in manifest["shards"]:
            _check_types(shard, _SHARD_TYPES)
        return manifest
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _no_cache(folder, error) from error


def _check_types(entry: Any, types: Mapping[str, type]) -> None:
    for key, kind in types.items():
        if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
            raise ValueError(f"{key!r} is missing or of another type in {_MANIFEST}")


def _no_cache(folder: Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or error
    return DataError(
        f"{folder} is not an activation cache, or a damaged one ({reason}); give another "
        "cache.path."
    )


def _difference(saved: Any, here: Any) -> str:
    """The first setting that differs, then and now."""
    if isinstance(saved, dict) and isinstance(here, dict):
        for key in here:
            if saved.get(key) != here[key]:
                return f"{key} {saved.get(key)!r} there, {here[key]!r} here"
    return f"{saved!r} there, {here!r} here"
