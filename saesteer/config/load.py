"""Read a YAML file into a frozen dataclass, with `key.path=value` overrides, all faults at once."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from saesteer.errors import ConfigError
from saesteer.files import path_of

T = TypeVar("T")

_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_TYPE_NAME = re.compile(
    r"(str|int|float|bool|none|(list|dict|tuple|constrained-\w+|function-\w+)\[.*)$"
)
"""Parts of pydantic's path to a fault that name a member of a union, not a key."""


def load_config(kind: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """The config at `path` as a `kind`, closed to unknown keys.

    Args:
        overrides: `key.path=value` texts; values are read as YAML.

    Raises:
        ConfigError: no such file, broken YAML, or one clause per wrong, missing or unknown key.
    """
    data = read_yaml(path)
    for override in overrides:
        _override(data, override)
    return build_config(kind, data, str(path))


def as_config(kind: type[T], given: object) -> T:
    """A `kind` as it is, or from its keys and values, or from the path of its YAML file.

    Raises:
        ConfigError: it is none of them; else as `load_config` does.
    """
    match given:
        case Mapping():
            return build_config(kind, given, kind.__name__)
        case str() | Path():
            return load_config(kind, given)
        case _ if isinstance(given, kind):
            return given
        case _:
            what = f"a {kind.__name__}, its keys and values, or the path of its YAML file"
            raise ConfigError(f"the config is a {type(given).__name__}, expected {what}.")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds one mapping; `5e-4` is a number in it.

    Raises:
        ConfigError: no such file, broken YAML, or something else than a mapping.
    """
    import yaml

    path = path_of(path, ConfigError)
    try:
        data = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give the path of a YAML file.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
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
        faults = dict.fromkeys(_fault(kind, dict(e)) for e in error.errors())
        raise ConfigError(f"{source}: {'; '.join(faults)}") from error
    except ConfigError as error:  # from a config's own check of several keys
        raise ConfigError(f"{source}: {error}") from error


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """A grid from `key=value,value` texts; values are read as YAML, a key's texts together.

    Raises:
        ConfigError: a text of another form.
    """
    import yaml

    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, found, values = text.partition("=")
        try:
            given = _parse(f"[{values}]")
        except yaml.YAMLError as error:
            raise ConfigError(f"grid {text!r}: the values are not YAML.") from error
        grid[key.strip()] = [*grid.get(key.strip(), ()), *given]
        if not (found and key.strip() and given):
            raise ConfigError(f"grid {text!r}: expected key=value,value, such as k=16,32,64.")
    return grid


def dump_config(config: Any) -> str:
    """A config as YAML that `load_config` reads back to the same value."""
    import yaml

    dumper = _safe_with_numbers("SafeDumper")
    return yaml.dump(dataclasses.asdict(config), Dumper=dumper, sort_keys=False)


def _fault(kind: Any, error: Mapping[str, Any]) -> str:
    loc = [part for part in error["loc"] if not _TYPE_NAME.match(str(part))]
    place = ".".join(str(part) for part in loc) or "top level"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown key {place!r}{_suggest(kind, loc)}"
    if error["type"] in ("missing", "missing_argument"):
        return f"key {place!r} is missing"
    return f"key {place!r}: {error['msg']}, got {error['input']!r}"


def _suggest(kind: Any, place: Sequence[Any]) -> str:
    """The known keys beside an unknown one: the nearest, or all of them."""
    import difflib

    for part in place[:-1]:
        kind = _dataclass_in(get_type_hints(kind).get(str(part)))
        if kind is None:
            return ""
    known = [field.name for field in dataclasses.fields(kind)]
    near = difflib.get_close_matches(str(place[-1]), known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else f" (known: {', '.join(known)})"


def _dataclass_in(hint: Any) -> Any:
    """The dataclass that a type hint is, or that a union holds."""
    found = (kind for kind in (hint, *get_args(hint)) if dataclasses.is_dataclass(kind))
    return next(found, None)


def _override(data: dict[str, Any], text: str) -> None:
    import yaml

    path, found, value = text.partition("=")
    parents = path.strip().split(".")
    last = parents.pop()
    if not found or not all((*parents, last)):
        raise ConfigError(f"override {text!r}: expected key.path=value.")
    node = data
    for name in parents:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override {text!r}: {name!r} holds no keys.")
    try:
        node[last] = _parse(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {text!r}: the value is not YAML.") from error


def _parse(text: str) -> Any:
    import yaml

    return yaml.load(text, Loader=_safe_with_numbers("SafeLoader"))  # noqa: S506 (it is one)


@cache
def _safe_with_numbers(base: str) -> Any:
    """PyYAML's safe loader or dumper, which take `5e-4` for a text (YAML 1.1), mended."""
    import yaml

    kind = type(base, (getattr(yaml, base),), {})
    kind.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))
    return kind
