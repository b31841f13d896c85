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

from saesteer.data.manifest import no_cache, read_manifest, write_manifest
from saesteer.data.sources import Chunk, Source
from saesteer.errors import DataError, OutputError
from saesteer.files import locked, save_tensors, sha256_of, size_text, sync

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
        as_read = json.loads(json.dumps(identity))
        self._settings = {"identity": as_read, "rows_per_shard": rows_per_shard}
        self.manifest = read_manifest(self.folder, self._settings)

    @property
    def n_rows(self) -> int:
        """Rows that are on disk."""
        return sum(shard["rows"] for shard in self.manifest["shards"])

    def bytes_for(self, n_rows: int) -> int:
        """Disk that `n_rows` take, in bytes."""
        return int(n_rows * self._width * self._dtype.itemsize * _SPARE_SHARE)

    def fill(self, source: Source, n_rows: int) -> Iterator[tuple[int, int]]:
        """Write shards until `n_rows` are there or the source ends; mend what is missing.

        While there is something to write, no other process may.

        Args:
            source: at its beginning.

        Yields:
            rows written and rows wanted, after each shard; to stop there loses nothing.

        Raises:
            DataError: the text has changed since the shards were written.
            OutputError: the disk is too small (before anything is written), full, or read-only; or
                another process is filling the cache.
        """
        start = source.state()
        self._go_to(len(self.manifest["shards"]), source, start)  # the text may be another
        missing = 0 if self.manifest["ended"] else n_rows - self.n_rows
        if missing <= 0 and all(map(self._is_there, range(len(self.manifest["shards"])))):
            return
        self._check_space(missing)
        with locked(self.folder, "start again when it is done, or give another cache.path"):
            # another process may have filled it meanwhile
            self.manifest = read_manifest(self.folder, self._settings)
            self._mend(source, start)
            self._go_to(len(self.manifest["shards"]), source, start)
            while self.n_rows < n_rows and not self.manifest["ended"]:
                self._append(source)
                yield min(self.n_rows, n_rows), n_rows

    def keep(self, n_shards: int) -> None:
        """Take no notice of shards behind the first `n_shards`; their files stay."""
        del self.manifest["shards"][n_shards:]

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

    def _is_there(self, index: int) -> bool:
        return self.path_of(index).is_file()

    def _go_to(self, index: int, source: Source, start: dict[str, Any]) -> None:
        """Bring the source to where a shard begins; the first one does at the source's `start`."""
        try:
            source.restore(self.manifest["shards"][index - 1]["state"] if index else start)
        except DataError as error:
            raise DataError(f"{self.folder} holds activations of another text: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise no_cache(self.folder, error) from error

    def _append(self, source: Source) -> None:
        """Collect one shard's chunks and write it; the manifest names it once it is on disk."""
        chunks, self.manifest["ended"] = _collect(source, self._rows_per_shard)
        if chunks:
            entry = self._write_shard(len(self.manifest["shards"]), chunks)
            self.manifest["shards"].append({**entry, "state": source.state()})
        write_manifest(self.folder, self.manifest)

    def _write_shard(self, index: int, chunks: list[Chunk]) -> dict[str, Any]:
        rows = torch.cat([chunk.rows for chunk in chunks]).cpu().to(self._dtype)
        path = self.path_of(index)
        scratch = path.with_suffix(".writing")
        try:
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
        """Make again the shards whose files are gone."""
        for index, shard in enumerate(self.manifest["shards"]):
            if self._is_there(index):
                continue
            self._go_to(index, source, start)
            chunks, ended = _collect(source, shard["rows"])
            if ended:
                raise DataError(f"{self.path_of(index)} is gone and its text has ended.")
            self.manifest["shards"][index] |= self._write_shard(index, chunks)
            write_manifest(self.folder, self.manifest)

    def _check_space(self, n_rows: int) -> None:
        place = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        needed, free = self.bytes_for(n_rows), shutil.disk_usage(place).free
        if needed > free:
            raise OutputError(
                f"the cache needs {size_text(needed)} more in {self.folder}, and "
                f"{size_text(free)} are free; lower n_tokens or give another cache.path."
            )


@final
class CachedSource:
    """The shards of a cache, in order in the first pass and in a seeded order in later ones.

    Passes are over those that there were when it was made; after a restart, what was written since
    comes once, behind all passes. Each file is verified when it is first read.
    """

    def __init__(self, cache: ActivationCache, *, passes: int = 1, seed: int = 0) -> None:
        self._cache = cache
        self._passes = passes
        self._seed = seed
        self._next = 0
        self._n_shards = len(cache.manifest["shards"])
        self._verified: set[int] = set()

    def next_chunk(self) -> Chunk | None:
        """The next shard; None once every pass is over."""
        if self._is_over():
            return None
        turn, place = divmod(self._next, self._n_shards)
        written_since = self._next - (self._passes - 1) * self._n_shards
        index = self._order(turn)[place] if turn < self._passes else written_since
        rows = self._cache.read(index, verify=index not in self._verified)
        self._verified.add(index)
        self._next += 1
        shard = self._cache.manifest["shards"][index]
        return Chunk(rows, shard["n_read"], shard["n_outliers"])

    def skip(self) -> bool:
        """Go behind the next shard without reading it; False once every pass is over."""
        if self._is_over():
            return False
        self._next += 1
        return True

    def sizes(self) -> list[int]:
        """Rows of every chunk of all passes."""
        rows = [shard["rows"] for shard in self._cache.manifest["shards"]]
        return [rows[index] for turn in range(self._passes) for index in self._order(turn)]

    def state(self) -> dict[str, Any]:
        """How many shards there are, and have been handed out or passed over."""
        return {"shards_read": self._next, "shards": self._n_shards}

    def restore(self, state: dict[str, Any]) -> None:
        """Go behind so many shards of as many as there were.

        Raises:
            DataError: there are fewer by now.
        """
        there = len(self._cache.manifest["shards"])
        n_shards = state.get("shards", there)  # not in older states
        if n_shards > there:
            raise DataError(
                f"{self._cache.folder} holds {there} shards of the {n_shards} that this run reads; "
                "fill it again as far as it was, or start again in another folder."
            )
        self._next, self._n_shards = state["shards_read"], n_shards

    def _is_over(self) -> bool:
        since = len(self._cache.manifest["shards"]) - self._n_shards
        return self._next >= self._passes * self._n_shards + since

    def _order(self, turn: int) -> list[int]:
        order = list(range(self._n_shards))
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
