"""repeng's control vectors: a GGUF file with a tensor `direction.N` for the output of block N.

llama.cpp reads and writes the same, but for block 0. Both add the vectors at every token.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from saesteer.errors import PlanError
from saesteer.models import Model, Site
from saesteer.steer.exchange.vectors import added_everywhere, constant_vectors
from saesteer.steer.plan import Plan

ARCHITECTURE = "controlvector"


def read(path: Path, _site: Site | None) -> Plan:
    """The vectors of a control vector file.

    Raises:
        PlanError: no GGUF, damaged, or of another architecture.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        found = _text(reader, "general.architecture")
        vectors = {_block(t.name): _tensor(t, path) for t in reader.tensors}
    except PlanError:
        raise
    except Exception as error:  # the reader raises whatever numpy does on a damaged file
        raise PlanError(f"{path} can't be read as GGUF: {' '.join(str(error).split())}") from error
    if found != ARCHITECTURE:
        raise PlanError(f"{path} is a GGUF of {found!r}, expected a {ARCHITECTURE!r}.")
    return added_everywhere({s: v for s, v in vectors.items() if s}, path.stem, str(path))


def write(plan: Plan, path: Path, model: Model | None) -> tuple[str, ...]:
    """Write a plan's vectors; `model_hint` is the model's type, if one is given.

    Raises:
        PlanError: the plan does something else than add vectors to the outputs of blocks.
    """
    from gguf import GGUFWriter

    vectors, notes = constant_vectors(plan, "a control vector file")
    if other := [str(site) for site in vectors if site.kind != "resid_post"]:
        raise PlanError(f"a control vector file holds resid_post sites only, not {other}.")
    hint = "unknown" if model is None else str(model.hf.config.model_type)
    with closing(GGUFWriter(path, ARCHITECTURE)) as writer:
        writer.add_string(f"{ARCHITECTURE}.model_hint", hint)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vectors))
        for site, vector in vectors.items():
            writer.add_tensor(f"direction.{site.layer}", vector.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    if any(site.layer == 0 for site in vectors):
        notes += ("direction.0: llama.cpp steers no block 0 and loads no file that has one",)
    return notes


def _text(reader: Any, key: str) -> str:
    field = reader.get_field(key)
    return "" if field is None else bytes(field.parts[-1]).decode("utf-8", "replace")


def _block(name: str) -> Site | None:
    """The site of `direction.N`; None for a tensor of another name."""
    kind, _, layer = name.partition(".")
    numbered = kind == "direction" and layer.isdecimal() and str(int(layer)) == layer
    return Site(int(layer), "resid_post") if numbered else None


def _tensor(tensor: Any, path: Path) -> torch.Tensor:
    if tensor.data.dtype not in ("float32", "float16", "float64"):
        raise PlanError(
            f"{path}: {tensor.name} is stored as {tensor.tensor_type.name}, expected F32 or F16."
        )
    return torch.from_numpy(tensor.data.copy())
