"""How values print: in a line, tensors as their shapes, what is left at its default not at all."""

from __future__ import annotations

import reprlib
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

T = TypeVar("T")

_FEW = 4
"""A tensor of so many numbers is shown whole."""


class _Short(reprlib.Repr):
    """Cuts what is long; the methods are found by the names of types."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxlong = 80
        self.maxother = 200

    def repr_Tensor(self, tensor: Any, _level: int) -> str:
        """Its shape, or its numbers where they are few."""
        if tensor.numel() <= _FEW and not tensor.is_meta:
            numbers = ", ".join(f"{number:.4g}" for number in tensor.flatten().tolist())
            return f"tensor({numbers})"
        return f"tensor{list(tensor.shape)}"

    def repr_instance(self, x: Any, level: int) -> str:
        """Its kind alone where it would take several lines, as modules do."""
        text = super().repr_instance(x, level)
        return f"<{type(x).__name__}>" if "\n" in text else text

    def repr_Site(self, site: Any, _level: int) -> str:
        """As it is written."""
        return str(site)


_SHORT = _Short()


def shown(kind: type[T]) -> type[T]:
    """Give a dataclass a `repr` for people; usable as a decorator, over `dataclass` or under it."""
    kind.__repr__ = _line  # pyright: ignore[reportAttributeAccessIssue]
    return kind


def _line(self: Any) -> str:
    """`Kind(field=value, ...)`; for what can say what it does, that."""
    if hasattr(self, "describe"):
        return f"<{self.describe()} at {self.site}>"
    given = [(f, getattr(self, f.name)) for f in fields(self) if f.repr]
    parts = [f"{f.name}={_SHORT.repr(value)}" for f, value in given if not _is_default(f, value)]
    return f"{type(self).__name__}({', '.join(parts)})"


def _is_default(entry: Field[Any], value: Any) -> bool:
    default = entry.default
    if entry.default_factory is not MISSING:
        default = entry.default_factory()
    return default is value or (default is not MISSING and repr(default) == repr(value))
