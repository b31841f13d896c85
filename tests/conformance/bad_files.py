"""Makes files that are not what they say: plans with one part wrong, and other libraries' files."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file
from torch import Tensor

from saesteer import steer
from saesteer.saes import SAE
from saesteer.steer import Edit, Plan, PromptEdit

VECTOR = torch.randn(32, generator=torch.Generator().manual_seed(0))
MANIFEST, TENSORS = "manifest.json", "tensors.safetensors"
ADD, SCALED, CLAMP, AT, SPAN, FIRST, TOPK, REPLACE = range(8)
"""The edits of the plan whose parts are made wrong, in order."""


class Touch:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def pickled(folder: Path) -> bytes:
    """A pickle that leaves `was_here` in a folder when it is run."""
    return pickle.dumps(Touch(folder / "was_here"))


def several(sae: SAE) -> Plan:
    """One edit of each kind that has something to be wrong about."""
    return Plan(
        steer.add("resid_post.1", VECTOR),
        steer.add_scaled("resid_post.1", VECTOR, typical_norm=4.5),
        steer.clamp(sae, [3, 7], [1.0, 6.0]),
        Edit(steer.add("resid_post.1", VECTOR + 1), where=steer.positions([1, 4])),
        Edit(steer.ablate(sae, 2), where=steer.spans("rain"), schedule=steer.decay(3.0)),
        Edit(steer.ablate(sae, 5), where=steer.first(2)),
        steer.clamp(replace(sae, activation="topk", k=8), 5, 2.0),
        steer.replace(sae),
        PromptEdit(prefix="the "),
        name="several",
    )


def with_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """A saved plan's manifest changed in place, or replaced by the text that `change` returns."""
    body = json.loads((folder / MANIFEST).read_text())
    told = change(body)
    (folder / MANIFEST).write_text(told if isinstance(told, str) else json.dumps(body))


def with_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """A saved plan's tensors changed, or replaced by bytes, with the digest that fits them."""
    path = folder / TENSORS
    found = change(load_file(path))
    if isinstance(found, bytes):
        path.write_bytes(found)
    else:
        save_file(found, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with_manifest(folder, lambda body: body.update(tensors_sha256=digest))


def fields(body: dict[str, Any], edit: int, *path: str) -> dict[str, Any]:
    """Fields of an edit in a manifest, or of what stands deeper in it."""
    found = body["edits"][edit]["fields"]
    for name in path:
        found = found[name]["fields"]
    return found


def _gguf(path: Path, tensors: Mapping[str, np.ndarray], arch: str = "controlvector") -> Path:
    """What repeng's own `export_gguf` writes, with any tensors."""
    writer = GGUFWriter(path, arch)
    writer.add_string(f"{arch}.model_hint", "llama")
    writer.add_uint32(f"{arch}.layer_count", len(tensors))
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _torch_file(path: Path, held: Any) -> Path:
    """A file of `torch.save`."""
    torch.save(held, path)
    return path


def of_another_width(sae: SAE) -> SAE:
    """An SAE of the same place whose activations are twice as wide."""
    wide = torch.nn.functional.pad
    return replace(
        sae,
        w_enc=wide(sae.w_enc, (0, 0, 0, 32)),
        w_dec=wide(sae.w_dec, (0, 32)),
        b_dec=wide(sae.b_dec, (0, 32)),
    )


def headed(header: dict[str, Any]) -> bytes:
    """A safetensors file without tensors, whatever its header says."""
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw


def one(held: Any, name: str = "v.pt") -> Callable[[Path], Path]:
    """A file of `torch.save`."""
    return lambda folder: _torch_file(folder / name, held)


def by_module(**told: Any) -> Callable[[Path], Path]:
    """lm-eval's vectors by module, with these parts of one."""
    return one({"layers.1": {"steering_vector": VECTOR, **told}})


def vectors(array: Any, name: str = "direction.1", **kwargs: Any) -> Callable[[Path], Path]:
    """A control vector file of one tensor."""
    return lambda folder: _gguf(folder / "v.gguf", {name: array}, **kwargs)


def raw(name: str, content: bytes) -> Callable[[Path], Path]:
    """Any bytes."""

    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def table(row: str) -> Callable[[Path], Path]:
    """A CSV of one row; SAE stands for the folder of one."""
    head = "loader,action,sparse_model,hookpoint,feature_index,steering_coefficient,head_index"
    return lambda f: raw("v.csv", f"{head}\n{row}\n".replace("SAE", str(f / "sae")).encode())(f)
