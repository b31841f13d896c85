"""Files of `torch.save`, read as tensors and nothing else.

`torch.load(weights_only=True)` runs no code, but it does believe sizes. So the archive is looked at
first: torch never compresses, and a tensor is never larger than the file that it came in.

What is known by its form: a dict of vectors by layer (steering-vectors' `layer_activations`), the
same under that name with a `layer_type`, one bare vector with `layer_N` in the file's name (CAA),
and a dict of vectors by module (lm-eval's `steered`).
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saesteer.errors import PlanError
from saesteer.models import Site
from saesteer.steer.exchange import lm_eval
from saesteer.steer.exchange.vectors import added_everywhere
from saesteer.steer.plan import Plan
from saesteer.steer.where import generated

_LAYER = re.compile(r"layer[_-]?(\d+)")
_KINDS = {"decoder_block": "resid_post", "self_attn": "attn_out", "mlp": "mlp_out"}
"""steering-vectors' layer types that are sites."""


def read(path: Path, site: Site | None) -> Plan:
    """The plan of a `.pt` file, by the form of what it holds.

    Raises:
        PlanError: not torch's, not only tensors, too large inside, or of an unknown form.
    """
    match _load(path):
        case Tensor() as vector:
            return _single(vector, path, site)
        case {"layer_activations": dict(vectors), **rest}:
            return _by_layer(vectors, str(rest.get("layer_type", "decoder_block")), path)
        case dict(held) if held and all(type(key) is int for key in held):
            return _by_layer(held, "decoder_block", path)
        case dict(held) if held and all(isinstance(v, Mapping) for v in held.values()):
            return lm_eval.plan_of(held, path)
        case other:
            raise PlanError(
                f"{path} holds a {type(other).__name__} of an unknown form; expected a vector, "
                "vectors by layer, or lm-eval's steering by module."
            )


def _load(path: Path) -> Any:
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise PlanError(
            f"{path} is no archive of torch.save ({error}); if it was saved by torch before 1.6, "
            "load and save it again with a newer one."
        ) from error
    if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or size < sum(
        e.file_size for e in entries
    ):
        raise PlanError(f"{path} is compressed, which torch.save never does; it was not opened.")
    if any(".." in Path(e.filename).parts or e.filename.startswith("/") for e in entries):
        raise PlanError(f"{path} has entries outside its own folder; it was not opened.")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        tensors = list(_tensors(held))
    except Exception as error:  # torch and its unpickler raise many kinds
        raise PlanError(
            f"{path} can't be read as tensors alone, and nothing else is loaded: "
            f"{_first_line(error)} Of steering-vectors' objects, save vector.layer_activations."
        ) from error
    if any(t.is_meta or t.layout != torch.strided for t in tensors):
        raise PlanError(f"{path} has a tensor that is sparse or holds no values; it was not used.")
    if any(t.numel() * t.element_size() > size for t in tensors):
        raise PlanError(f"{path} has a tensor larger than the file; it was not used.")
    return held


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].strip()[:120]


def _tensors(held: Any) -> Iterator[Tensor]:
    match held:
        case Tensor():
            yield held
        case Mapping():
            for part in held.values():
                yield from _tensors(part)
        case list() | tuple():
            for part in held:
                yield from _tensors(part)


def _single(vector: Tensor, path: Path, site: Site | None) -> Plan:
    """CAA's file: one vector, added behind the prompt."""
    named = _LAYER.search(path.stem)
    if site is None and named is None:
        raise PlanError(f"{path} holds one vector and does not say for which layer; give its site.")
    if site is None:
        assert named is not None
        site = Site(int(named[1]), "resid_post")
    return added_everywhere({site: vector.squeeze()}, path.stem, str(path), generated())


def _by_layer(vectors: Mapping[Any, Any], layer_type: str, path: Path) -> Plan:
    """steering-vectors' own: every position of every layer."""
    if layer_type not in _KINDS:
        raise PlanError(
            f"{path}: layer type {layer_type!r} is no site; known: {', '.join(_KINDS)}."
        )
    sites: dict[Site, Tensor] = {}
    for layer, vector in vectors.items():
        if type(layer) is not int or layer < 0 or not isinstance(vector, Tensor):
            raise PlanError(
                f"{path}: expected vectors by layer, from 0 on, got {layer!r}: {type(vector)}."
            )
        sites[Site(layer, _KINDS[layer_type])] = vector
    return added_everywhere(sites, path.stem, str(path))
