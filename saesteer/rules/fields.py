"""Read plain mappings out of a config file, collecting every fault instead of stopping at one.

A `Fields` is used once, from top to bottom: each `take` removes a key, `finish` reports what is
left. Faults carry the key's full path; the caller raises them together.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, final

from torch import Tensor

from saesteer.errors import ConfigError, SiteError
from saesteer.files import path_of
from saesteer.models.sites import Site
from saesteer.rules.syntax import nearest

MISSING: Any = object()


@final
class Fields:
    """The keys of one mapping at `path`, such as `concepts.pain`; faults go to the given list."""

    def __init__(self, raw: object, path: str, faults: list[str]) -> None:
        """Start reading; anything but a mapping is a fault and reads as an empty one."""
        self.path, self.faults, self.taken = path, faults, set[str]()
        if not isinstance(raw, Mapping):
            self.fault("", raw, "a mapping of keys to values")
        self.left: dict[Any, Any] = dict(raw) if isinstance(raw, Mapping) else {}
        self.broken = not isinstance(raw, Mapping)

    def __contains__(self, key: str) -> bool:
        """Whether the mapping gives this key."""
        return key in self.left

    def fault(self, key: str, got: object, expected: str) -> None:
        """Record that a key's value is not what it should be."""
        shown = repr(got) if len(repr(got)) < 60 else f"{repr(got)[:57]}…"
        self.faults.append(f"{self._at(key)} is {shown}, expected {expected}")

    def raw(self, key: str, default: Any = MISSING) -> Any:
        """The value as it stands; a missing key without a default is a fault."""
        self.taken.add(key)
        if key not in self.left and default is MISSING and not self.broken:
            self.faults.append(f"{self._at(key)} is missing")
        return self.left.pop(key, None if default is MISSING else default)

    def one_of(self, keys: Collection[str]) -> str | None:
        """Which one of these keys is given; None and a fault unless it is exactly one."""
        given = [key for key in keys if key in self.left]
        self.taken.update(keys)
        if len(given) == 1 or self.broken:
            return given[0] if given else None
        for key in given:
            self.raw(key)
        got = " and ".join(given) or "none"
        self.faults.append(f"{self.path} has {got} of {', '.join(keys)}; expected exactly one")
        return None

    def number(self, key: str, default: float = MISSING) -> float:
        """A finite number; `5e-4`, which YAML reads as text, is one too."""
        given, value = key in self.left, self.raw(key, default)
        if not given:
            return value if isinstance(value, float) else 0.0
        return as_number(value, self._at(key), self.faults)

    def whole(self, key: str, least: int | None) -> int:
        """A whole number, of at least `least` if there is a least one."""
        value = self.raw(key)
        small = isinstance(value, int) and least is not None and value < least
        if not isinstance(value, int) or isinstance(value, bool) or small:
            self.fault(key, value, "a whole number" + f", {least} or more" * (least is not None))
            return least or 0
        return value

    def choice(self, key: str, known: Collection[str], default: str) -> str:
        """One of some words."""
        value = self.raw(key, default)
        if value not in known:
            self.fault(key, value, f"one of {', '.join(known)}")
            return default
        return value

    def flag(self, key: str) -> bool:
        """true or false; false if it is not given."""
        value = self.raw(key, default=False)
        if not isinstance(value, bool):
            self.fault(key, value, "true or false")
        return value is True

    def features(self, key: str) -> tuple[int, ...]:
        """One feature index or a list of them."""
        value = self.raw(key)
        several = value if isinstance(value, list) else [value]
        if not several or not all(_is_index(v) for v in several):
            self.fault(key, value, "a feature index or a list of them")
            return (0,)
        return tuple(several)

    def weights(self, key: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """A mapping of feature index to weight, or a list of features of equal weight."""
        value = self.raw(key)
        if isinstance(value, list) and value:
            value = dict.fromkeys(value, 1 / len(value))
        if not isinstance(value, Mapping) or not value or not all(_is_index(k) for k in value):
            self.fault(key, value, "a mapping of feature index to weight, or a list of features")
            return (0,), (1.0,)
        where = self._at(key)
        return tuple(value), tuple(
            as_number(w, f"{where}.{f}", self.faults) for f, w in value.items()
        )

    def site(self, key: str) -> Site:
        """A site of a model."""
        value = self.raw(key)
        try:
            return Site.parse(value if isinstance(value, str) else repr(value))
        except SiteError as error:
            if value is not None:
                self.faults.append(f"{self._at(key)}: {str(error).rstrip('.')}")
            return Site(0, "resid_post")

    def tensors(self, key: str, folder: Path) -> dict[str, Tensor]:
        """The tensors of a safetensors file, its path relative to `folder`; {} after a fault."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        value = self.raw(key)
        if not isinstance(value, str):
            if value is not None:
                self.fault(key, value, "the path of a .safetensors file")
            return {}
        try:
            return load_file(path_of(folder / value, ConfigError))
        except ConfigError as error:
            self.faults.append(f"{self._at(key)}: {str(error).rstrip('.')}")
        except FileNotFoundError:
            self.faults.append(f"{self._at(key)}: no file {folder / value}")
        except (SafetensorError, OSError) as error:
            self.faults.append(f"{self._at(key)}: {folder / value} can't be read ({error})")
        return {}

    def finish(self) -> None:
        """Report keys that nothing took."""
        for key in self.left:
            hint = nearest(str(key), self.taken).rstrip("?") or (
                f"; known: {', '.join(sorted(self.taken))}"
            )
            self.faults.append(f"{self._at(key)} is no known key{hint}")

    def _at(self, key: object) -> str:
        return ".".join(part for part in (self.path, str(key)) if part)


def as_number(value: object, path: str, faults: list[str]) -> float:
    """A finite number, or 0.0 and a fault."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        number = math.nan
    if math.isfinite(number):
        return number
    faults.append(f"{path} is {value!r}, expected a finite number")
    return 0.0


def vector_in(
    tensors: Mapping[str, Tensor], name: str, path: str, faults: list[str]
) -> Tensor | None:
    """The vector `name` of a file, or its only vector; None and a fault if there is neither."""
    vectors = {key: tensor for key, tensor in tensors.items() if tensor.dim() == 1}
    found = vectors.get(name, next(iter(vectors.values())) if len(vectors) == 1 else None)
    if found is None and tensors:
        held = ", ".join(f"{key} {list(t.shape)}" for key, t in tensors.items())
        faults.append(f"{path} holds {held}, expected one vector named {name}")
    return None if found is None else found.float()


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
