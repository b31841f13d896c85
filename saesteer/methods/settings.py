"""A method's settings held against the types of its fields, as configs bring them untyped.

A number must be finite, a count (`n_...`, `top_k`, `batch_size`) 1 or more, a word one of the known
ones, a list not empty where it has a default; names that mean the same in every method have one
range. The rest (a damping below 1) a method checks itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from saesteer.errors import ConfigError

_MANY = (Sequence, list, tuple)
_SEEDS = 2**32
"""scikit-learn takes seeds below it."""
_POSITIVE = ("dose", "norm", "lr", "step")
_NOT_NEGATIVE = (
    "sparsity",
    "group_sparsity",
    "shrinkage",
    "decay",
    "kl_weight",
    "cutoff",
    "fact",
    "feature",
    "latent",
)
_CALLED = {str: "text", NoneType: "None", bool: "true or false"}


def check_settings(method: Any, least: int = 1) -> None:
    """Check every field of a method.

    Args:
        least: the smallest count.

    Raises:
        ConfigError: one that is of another type, not finite, or out of its range.
    """
    hints = get_type_hints(type(method))
    for field in fields(method):
        given = getattr(method, field.name)
        expected = _fault(hints[field.name], given) or _range_fault(field.name, given, least)
        has_default = field.default is not MISSING and bool(field.default)
        if expected is None and has_default and given in ([], ()):
            expected = "a list of one or more"
        if expected is not None:
            who = f"{type(method).__name__}: {field.name}"
            raise ConfigError(f"{who} is {_shown(given)}, expected {expected}.")


def _range_fault(name: str, given: Any, least: int) -> str | None:
    """The bounds of a number that is called so in every method."""
    if not isinstance(given, int | float):
        return None
    if name.startswith("n_") or name in ("top_k", "batch_size"):
        return None if given >= least else f"{least} or more"
    if name == "seed":
        return None if 0 <= given < _SEEDS else f"0 to {_SEEDS - 1}"
    if name == "share":
        return None if 0 < given <= 1 else "a share above 0, at most 1"
    if name in _POSITIVE:
        return None if given > 0 else "a number above 0"
    return None if given >= 0 or name not in _NOT_NEGATIVE else "0 or more"


def _fault(hint: Any, given: Any) -> str | None:
    """What a value should have been, or None where it may be what it is."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        faults = [_fault(part, given) for part in parts]
        return None if None in faults else " or ".join(dict.fromkeys(f for f in faults if f))
    if origin is Literal:
        known = ", ".join(map(str, parts))
        return None if isinstance(given, str) and given in parts else f"one of {known}"
    if origin in _MANY:
        return _list_fault(origin, parts, given)
    return _single_fault(hint if origin is None else origin, given)


def _list_fault(origin: Any, parts: tuple[Any, ...], given: Any) -> str | None:
    if get_origin(parts[0]) is Literal:
        told = f"a list of any of {', '.join(map(str, get_args(parts[0])))}"
    else:
        told = "a list, each of it " + (_fault(parts[0], _Nothing()) or "anything")
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        return told
    fixed = origin is tuple and parts[-1] is not ...
    if fixed and len(given) != len(parts):
        return f"a list of {len(parts)}"
    return told if any(_fault(parts[0], part) is not None for part in given) else None


def _single_fault(kind: Any, given: Any) -> str | None:
    if kind is Any or not isinstance(kind, type):
        return None
    number = isinstance(given, Real) and not isinstance(given, bool)
    if kind is int:
        return None if number and isinstance(given, Integral) else "a whole number"
    if kind is float:
        return None if number and math.isfinite(float(given)) else "a finite number"
    if isinstance(given, kind):
        return None
    return _CALLED.get(kind) or ("a mapping" if kind is Mapping else f"of type {kind.__name__}")


class _Nothing:
    """A value that is of no setting's type."""


def _shown(given: Any) -> str:
    plain = given is None or isinstance(given, str | int | float | list | tuple | dict)
    shown = repr(given) if plain else f"of type {type(given).__name__}"
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
