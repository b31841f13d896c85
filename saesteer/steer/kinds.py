"""The closed list of kinds of values that a saved plan is made of, and how one is made from parts.

Parts come from files, so each is held against its field's type before anything is built: a dtype, a
number of axes, and sizes that fields of one value share, as the annotations state them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import re
from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jaxtyping import jaxtyped
from torch import Tensor

from saesteer.errors import PlanError
from saesteer.models import Site
from saesteer.saes.sae import SAE, FeatureSlice
from saesteer.shown import shown
from saesteer.steer import affine_maps, feature_edits, intervention, sae_stamp, schedule, where
from saesteer.steer.control import Backtrack, Refuse, Stop
from saesteer.steer.edit import Edit
from saesteer.steer.gate import Always
from saesteer.steer.prompts import PromptEdit
from saesteer.steer.weights import WeightEdit

_OWN_MODULE = re.compile(r"saesteer(\.[a-z][a-z_]*)+")
"""Modules that a manifest may cause to be imported: this package's own, but not `__main__`."""

_KINDS: dict[str, type] = {
    kind.__name__: shown(kind)
    for kind in (
        intervention.Add,
        intervention.AddScaled,
        intervention.ProjectOut,
        affine_maps.Affine,
        affine_maps.AffineEach,
        feature_edits.Clamp,
        feature_edits.Scale,
        feature_edits.Ablate,
        feature_edits.FeatureAdd,
        feature_edits.FeatureShift,
        feature_edits.Replace,
        sae_stamp.SaeStamp,
        feature_edits.TopKReader,
        where.PromptTokens,
        where.Generated,
        where.Last,
        where.Everywhere,
        where.First,
        where.Positions,
        where.Spans,
        where.ChatRole,
        schedule.Constant,
        schedule.Decay,
        schedule.Linear,
        schedule.Dial,
        Always,
        Edit,
        WeightEdit,
        Stop,
        Refuse,
        Backtrack,
        PromptEdit,
        FeatureSlice,
        SAE,
        Site,
    )
}


def register_kind(kind: type) -> type:
    """Let plans hold values of a frozen dataclass defined elsewhere; usable as a decorator.

    Raises:
        PlanError: no dataclass, or a name that is taken.
    """
    if not dataclasses.is_dataclass(kind) or _KINDS.get(kind.__name__, kind) is not kind:
        raise PlanError(f"{kind.__name__} can't be registered: no dataclass, or its name is taken.")
    _KINDS[kind.__name__] = shown(kind)
    return kind


def is_kind(value: Any) -> bool:
    """Whether a plan can hold it."""
    return _KINDS.get(type(value).__name__) is type(value)


def kind_of(name: str, module: Any) -> type:
    """A registered kind; one of this package that is not there yet is registered by its module.

    Raises:
        ValueError: unknown.
    """
    if name not in _KINDS and isinstance(module, str) and _OWN_MODULE.fullmatch(module):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module)
    if name not in _KINDS:
        raise ValueError(f"unknown kind {name!r}")
    return _KINDS[name]


def made(kind: type, parts: Mapping[str, Any]) -> Any:
    """A value of a kind from its fields.

    Raises:
        ValueError: a field of another type or size than it has.
        TypeError, SaesteerError: fields that are missing or unknown, or that mean nothing.
    """
    name, hints = kind.__name__, _hints(kind)
    with jaxtyped("context"):  # sizes that fields have in common are compared
        for key in parts.keys() & hints.keys():
            check_type(parts[key], hints[key], f"{key} of {name}")
    for key, part in parts.items():
        if isinstance(part, Tensor) and not _usable(part, kind):
            raise ValueError(f"{key} of {name} holds NaN or infinity")
    return kind(**parts)


def check_type(value: Any, hint: Any, who: str) -> None:
    """Make sure that what a file holds is of an annotated type.

    Raises:
        ValueError: it is not.
    """
    if not _fits(value, hint):
        raise ValueError(f"{who} is {_shown(value)}, expected {getattr(hint, '__name__', hint)}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON and tensors is of an annotated type."""
    parts = get_args(hint)
    if isinstance(value, Tensor) and value.is_floating_point() and value.itemsize == 1:
        return False  # torch stores floats of 8 bits, and can do next to nothing with them
    match get_origin(hint):
        case origin if origin in (Union, UnionType):
            return any(_fits(value, part) for part in parts)
        case origin if origin is Literal:
            return isinstance(value, str) and value in parts
        case origin if origin is tuple and isinstance(value, tuple):
            each = [parts[0]] * len(value) if parts[-1] is ... else parts
            return len(each) == len(value) and all(map(_fits, value, each))
        case None if hint in (int, float):
            return type(value) is int or type(value) is hint
        case None:
            return isinstance(value, NoneType if hint is None else hint)
        case origin:
            return isinstance(value, origin)


def _usable(tensor: Tensor, kind: type) -> bool:
    """Whether all of it is a number; thresholds may be infinite, what is added may not."""
    strict = issubclass(kind, intervention.Intervention)
    return not bool((~tensor.isfinite() if strict else tensor.isnan()).any())


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} and shape {list(value.shape)}"
    return f"{value!r:.60}" if isinstance(value, str | int | float | None) else type(value).__name__
