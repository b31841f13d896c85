"""Read a YAML file into a frozen dataclass, with `key.path=value` overrides, all faults at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from saesteer.errors import ConfigError

T = TypeVar("T")


def load_config(kind: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """The config at `path` as a `kind`, closed to unknown keys.

    Args:
        overrides: `key.path=value` texts; values are read as YAML.

    Raises:
        ConfigError: no such file, broken YAML, or one line per wrong or unknown key.
    """
    data = read_yaml(path)
    for override in overrides:
        _override(data, override)
    return build_config(kind, data, str(path))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds one mapping.

    Raises:
        ConfigError: no such file, broken YAML, or something else than a mapping.
    """
    import yaml

    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give the path of a YAML file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys and values, got {type(data).__name__}.")
    return data


def build_config(kind: type[T], data: Mapping[str, Any], source: str) -> T:
    """Validate plain data against a dataclass.

    Raises:
        ConfigError: naming each faulty key by its path, and the known keys where one is unknown.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(dict(data))
    except ValidationError as error:
        faults = "; ".join(_fault(kind, dict(e)) for e in error.errors())
        raise ConfigError(f"{source}: {faults}") from error


def dump_config(config: Any) -> str:
    """A config as YAML that `load_config` reads back to the same value."""
    import yaml

    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def _fault(kind: Any, error: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in error["loc"]) or "top level"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown key {place!r}{_suggest(kind, error['loc'])}"
    if error["type"] in ("missing", "missing_argument"):
        return f"key {place!r} is missing"
    return f"key {place!r}: {error['msg']}, got {error['input']!r}"


def _suggest(kind: Any, place: Sequence[Any]) -> str:
    import difflib

    known = [f.name for f in dataclasses.fields(kind)] if len(place) == 1 else []
    near = difflib.get_close_matches(str(place[-1]), known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _override(data: dict[str, Any], text: str) -> None:
    import yaml

    path, found, value = text.partition("=")
    if not found or not path.strip():
        raise ConfigError(f"override {text!r}: expected key.path=value.")
    node = data
    *parents, last = path.strip().split(".")
    for name in parents:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override {text!r}: {name!r} holds no keys.")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {text!r}: the value is not YAML.") from error
    if isinstance(node[last], str):
        node[last] = _number(node[last])


def _number(text: str) -> Any:
    """YAML 1.1 reads 5e-4 as a string; users mean a number."""
    try:
        return float(text)
    except ValueError:
        return text
