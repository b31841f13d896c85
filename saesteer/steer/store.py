"""Plans on disk: a folder with `manifest.json` and `tensors.safetensors`, and nothing executable.

The manifest is a tree of values of a closed list of kinds, each with its fields; tensors stand in
the other file under keys that the manifest names. No path is ever read from a manifest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from saesteer.errors import OutputError, PlanError, SaesteerError
from saesteer.files import save_tensors, sha256_of, whole_folder
from saesteer.models import Model
from saesteer.steer.checks import check_plan
from saesteer.steer.control import Control
from saesteer.steer.edit import Edit
from saesteer.steer.kinds import check_type, is_kind, kind_of, made
from saesteer.steer.prompts import PromptEdit
from saesteer.steer.weights import WeightEdit

if TYPE_CHECKING:
    from saesteer.steer.plan import Plan

FORMAT = 1
MANIFEST, TENSORS = "manifest.json", "tensors.safetensors"
_ACTS = ("edits", "weight_edits", "controls", "prompt_edits")
_HEAD = {"name": str, "strength": float, "stamp": dict, **dict.fromkeys(_ACTS, list)}
"""Types of what a manifest holds at its top."""


def save_plan(plan: Plan, folder: Path, model: Model | None) -> None:
    """Write a plan; the folder appears whole or not at all (`Plan.save`)."""
    tensors = _Tensors()
    body = {
        "format": FORMAT,
        "name": plan.name,
        "strength": plan.strength,
        "edits": [_pack(edit, tensors) for edit in plan.edits],
        "weight_edits": [_pack(edit, tensors) for edit in plan.weight_edits],
        "controls": [_pack(control, tensors) for control in plan.controls],
        "prompt_edits": [_pack(edit, tensors) for edit in plan.prompt_edits],
        "stamp": stamp_of(model) if model is not None else plan.stamp,
    }
    with whole_folder(folder) as made:
        if folder.exists() and (not folder.is_dir() or _holds_something_else(folder)):
            raise OutputError(f"{folder} exists and is no saved plan; choose another folder.")
        save_tensors(tensors.named, made / TENSORS)
        body["tensors_sha256"] = sha256_of(made / TENSORS)
        (made / MANIFEST).write_text(json.dumps(body, indent=1, allow_nan=False))


def load_plan(folder: Path, model: Model | None) -> Plan:
    """Read a plan and check it against the model it is meant for (`Plan.load`)."""
    from saesteer.steer.plan import Plan

    body, tensors = _read(folder)
    try:
        for key in body.keys() & _HEAD.keys():
            check_type(body[key], _HEAD[key], key)
        acts = [_unpack(part, tensors) for kind in _ACTS for part in body.get(kind, ())]
        if not all(isinstance(act, Edit | WeightEdit | Control | PromptEdit) for act in acts):
            raise ValueError("it lists something that is no edit")
        plan = Plan(*acts, strength=body["strength"], name=body["name"], stamp=body["stamp"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise PlanError(
            f"{folder / MANIFEST} is damaged: {error!r}. Save the plan again."
        ) from error
    except SaesteerError as error:
        raise PlanError(f"{folder / MANIFEST}: {error}") from error
    if model is not None:
        check_made_for(plan, folder, model)
    return plan


def digest_of(plan: Plan) -> str:
    """Hex digest of what a plan does at strength 1, whatever it is called and was made for.

    Raises:
        PlanError: an act that can't be saved.
    """
    from safetensors.torch import save

    tensors = _Tensors()
    acts = json.dumps([_pack(act, tensors) for act in plan.acts], sort_keys=True)
    return hashlib.sha256(acts.encode() + save(tensors.named)).hexdigest()[:16]


def stamp_of(model: Model) -> dict[str, str]:
    """What identifies a model: its weights and its tokenizer; the name is for people."""
    stamp = {"model": model.name, "weights": model.fingerprint()}
    if model.tokenizer is not None:
        vocabulary = sorted(model.tokenizer.get_vocab().items())
        told = json.dumps([vocabulary, sorted(model.tokenizer.all_special_ids)])
        stamp["tokenizer"] = hashlib.sha256(told.encode()).hexdigest()[:16]
    return stamp


def check_made_for(plan: Plan, source: str | Path, model: Model) -> None:
    """Make sure that a model is the one that a plan was saved for, and can carry it out.

    Args:
        source: where the plan was read, for the message.

    Raises:
        PlanError: it was saved for other weights or another tokenizer.
        SiteError, DimensionError, PlanError: the model can't carry it out.
    """
    here = stamp_of(model)
    for part in ("weights", "tokenizer"):
        if part in plan.stamp and part in here and plan.stamp[part] != here[part]:
            raise PlanError(
                f"{source} was made for {plan.stamp.get('model', 'another model')} with other "
                f"{part} ({plan.stamp[part]}; {model.name} has {here[part]}); fit it again, "
                "or load it without a model to use it all the same."
            )
    check_plan(plan, model)


class _Tensors:
    """Tensors by key; one that occurs twice is stored once."""

    def __init__(self) -> None:
        self.named: dict[str, Tensor] = {}
        self._keys: dict[int, str] = {}
        self._held: list[Tensor] = []

    def key(self, tensor: Tensor) -> str:
        if id(tensor) not in self._keys:
            key = f"t{len(self.named)}"
            self.named[key] = tensor.detach().cpu().contiguous().clone()
            self._keys[id(tensor)] = key
            self._held.append(tensor)
        return self._keys[id(tensor)]


def _pack(value: Any, tensors: _Tensors) -> Any:
    match value:
        case Tensor():
            return {"kind": "tensor", "key": tensors.key(value)}
        case None | bool() | int() | str():
            return value
        case float() if math.isfinite(value):
            return value
        case tuple() | list():
            return [_pack(part, tensors) for part in value]
        case dict():
            return {"kind": "json", "value": value}
    if not is_kind(value):
        raise PlanError(
            f"a {type(value).__name__} can't be saved in a plan; save what it was made from "
            "(a rule book's YAML), or register its kind."
        )
    packed = {
        entry.name: _pack(getattr(value, entry.name), tensors)
        for entry in dataclasses.fields(value)
        if entry.init
    }
    kind = type(value)
    return {"kind": kind.__name__, "module": kind.__module__, "fields": packed}


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    match value:
        case list():
            return tuple(_unpack(part, tensors) for part in value)
        case {"kind": "tensor", "key": str(key)}:
            return tensors[key]
        case {"kind": "json", "value": dict(held)}:
            return held
        case {"kind": str(name), "fields": dict(packed)}:
            kind = kind_of(name, value.get("module"))
            return made(kind, {key: _unpack(part, tensors) for key, part in packed.items()})
        case dict():
            raise ValueError(f"unknown entry {sorted(value)}")
        case _:
            return value


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / MANIFEST).is_file() or not (folder / TENSORS).is_file():
        raise PlanError(f"{folder} holds no saved plan: it needs {MANIFEST} and {TENSORS}.")
    try:
        body = json.loads((folder / MANIFEST).read_text())
        expected, version = body["tensors_sha256"], body["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PlanError(
            f"{folder / MANIFEST} is damaged: {error!r}. Save the plan again."
        ) from error
    if version != FORMAT:
        raise PlanError(f"{folder} has plan format {version}; this version reads {FORMAT}.")
    if sha256_of(folder / TENSORS) != expected:
        raise PlanError(f"{folder / TENSORS} is damaged or of another plan. Save the plan again.")
    try:
        # a file's tensors lie at odd addresses, where a matmul may round otherwise than when saved
        return body, {key: tensor.clone() for key, tensor in load_file(folder / TENSORS).items()}
    except (SafetensorError, OSError) as error:
        raise PlanError(f"{folder / TENSORS} can't be read: {error}") from error


def _holds_something_else(folder: Path) -> bool:
    own = (MANIFEST, TENSORS, "lineage.json")
    return any(entry.name not in own for entry in folder.iterdir())
