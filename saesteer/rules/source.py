"""A rule file as plain data, with the place of its `rules:` block, so that errors point into it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from saesteer.errors import ConfigError
from saesteer.files import path_of
from saesteer.rules.syntax import Origin

if TYPE_CHECKING:
    from yaml import Node


class Source(NamedTuple):
    """What a YAML file says, and where its rules begin."""

    data: Any
    origin: Origin


def read_source(path: Path) -> Source:
    """Read a YAML file.

    Raises:
        ConfigError: there is no such file, it is no YAML, or it gives a key twice.
    """
    import yaml

    path = path_of(path, ConfigError)
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except FileNotFoundError:
        raise ConfigError(f"no rule file {path}. Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"rule file {path} can't be read: {error}.") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path} is no valid YAML: {' '.join(str(error).split())}.") from None
    if faults := list(_twice(root, "")):
        raise ConfigError(f"{path}: {'; '.join(faults)}.")
    return Source(data, _origin(path, text, root))


def _twice(node: Node | None, path: str) -> list[str]:
    """Every key that a mapping gives more than once; YAML would keep the last in silence."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return []
    faults: list[str] = []
    first: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in first:
            faults.append(f"{path}{name} is given twice, on lines {first[name]} and {line}")
        first.setdefault(name, line)
        faults += _twice(value, f"{path}{name}.")
    return faults


def _origin(path: Path, text: str, root: Node | None) -> Origin:
    """Where the literal block under `rules:` begins; line 1 of itself if it is no literal block."""
    import yaml

    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    for key, node in pairs:
        if key.value == "rules" and getattr(node, "style", None) == "|":
            first = node.start_mark.line + 1
            body = next((line for line in text.split("\n")[first:] if line.strip()), "")
            return Origin(str(path), first + 1, len(body) - len(body.lstrip()) + 1)
    return Origin(f"{path}: rules")
