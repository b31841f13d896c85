"""Methods by the names that they have in configs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from inspect import isabstract
from typing import Any

from saesteer import methods
from saesteer.errors import ConfigError
from saesteer.methods.base import Method
from saesteer.saes import SAE

METHODS: Mapping[str, type[Method]] = {
    name: kind
    for name in sorted(methods.__all__, key=str.casefold)
    if isinstance(kind := getattr(methods, name), type) and issubclass(kind, Method)
    if not isabstract(kind)
}
"""Every method by the name it has in `saesteer.methods` and in configs."""


def check_method(key: str, name: str, settings: Mapping[str, Any], sae: SAE | None) -> None:
    """Make sure that a method of `METHODS` can be made.

    Args:
        key: of the config, for messages.

    Raises:
        ConfigError: a setting that it does not have or does not get, or of a value that means
            nothing, or features without an SAE.
    """
    known = {field.name for field in fields(METHODS[name])}
    if unknown := set(settings) - known:
        raise ConfigError(
            f"{key}: {name} has no setting {sorted(unknown)}; it has {sorted(known)}."
        )
    needed = {
        field.name
        for field in fields(METHODS[name])
        if field.default is MISSING and field.default_factory is MISSING
    }
    if missing := needed - set(settings) - {"sae"}:
        raise ConfigError(f"{key}: {name} needs {sorted(missing)}; give them as its settings.")
    if "sae" in known and sae is None:
        raise ConfigError(f"{key}: {name} needs features; set sae.")
    make_method(name, settings, sae)


def make_method(name: str, settings: Mapping[str, Any], sae: SAE | None) -> Method:
    """The method that `check_method` has checked.

    Raises:
        ConfigError: a setting of a value that means nothing.
    """
    kind = METHODS[name]
    needs_sae = any(field.name == "sae" for field in fields(kind))
    return kind(**settings, **({"sae": sae} if needs_sae else {}))
