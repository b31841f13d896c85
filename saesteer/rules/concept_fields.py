"""The `concepts:` block of a rule file: readouts, thresholds, and over which tokens they count."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from saesteer.errors import ConfigError, RuleError
from saesteer.features.concept_store import load_concept
from saesteer.features.concepts import (
    Aggregate,
    Concept,
    CosineReadout,
    FeatureReadout,
    ProbeReadout,
    Readout,
)
from saesteer.rules.fields import Fields, vector_in
from saesteer.rules.syntax import Atom, nearest

READOUT_KEYS = ("feature", "features", "vector", "probe", "concept")


def read_concept(key: object, raw: object, folder: Path, faults: list[str]) -> Concept:
    """One concept; faults are collected, and stand-ins returned for what is faulty."""
    name = str(key)
    try:
        name = str(Atom.parse(name if isinstance(key, str) else repr(key)))
    except RuleError as error:
        faults.append(f"concepts: {str(error).rstrip('.')}")
    fields = Fields(raw, f"concepts.{name}", faults)
    fitted = _fitted(fields, folder) if "concept" in fields else None
    readout = _readout(fields, folder) if fitted is None else fitted.readout
    threshold = fields.number("threshold", *([] if fitted is None else [fitted.threshold]))
    usual = ("token", "max") if fitted is None else (fitted.aggregate, fitted.over)
    aggregate: Any = fields.choice("aggregate", get_args(Aggregate), usual[0])
    if "over" in fields and aggregate != "prompt":
        faults.append(f"{fields.path}.over is given, so aggregate must be prompt")
    over: Any = fields.choice("over", ("max", "mean", "any", "last"), usual[1])
    n = fields.whole("n", 1) if aggregate in ("last_n", "for_n") else 1
    of = fields.raw("of") if aggregate == "since" else ""
    fields.finish()
    if aggregate == "since" and not of:
        return Concept(name, readout, threshold)
    stamp = "" if fitted is None else fitted.sae
    return Concept(name, readout, threshold, aggregate, over, n, str(of), stamp)


def check_since(concepts: list[Concept], faults: list[str]) -> None:
    """What `since` counts from must be a concept of single tokens."""
    tokens = [c.name for c in concepts if c.aggregate == "token"]
    for concept in concepts:
        if concept.of and concept.of not in tokens:
            faults.append(
                f"concepts.{concept.name}.of is {concept.of!r}, expected a concept with "
                f"aggregate token{nearest(concept.of, tokens).rstrip('?')}"
            )


def _fitted(fields: Fields, folder: Path) -> Concept | None:
    """A concept folder, as `saesteer concepts fit` writes it; its path is relative to `folder`."""
    fields.one_of(READOUT_KEYS)
    given = fields.raw("concept")
    if not isinstance(given, str):
        fields.fault("concept", given, "the path of a concept folder")
        return Concept("unread", FeatureReadout((0,)), 0.0)
    try:
        return load_concept(folder / Path(given).expanduser())
    except ConfigError as error:
        fields.faults.append(f"{fields.path}.concept: {str(error).rstrip('.')}")
        return Concept("unread", FeatureReadout((0,)), 0.0)


def _readout(fields: Fields, folder: Path) -> Readout:
    match fields.one_of(READOUT_KEYS):
        case "feature":
            return FeatureReadout(fields.features("feature")[:1])
        case "features":
            return FeatureReadout(*fields.weights("features"))
        case "vector" | "probe" as kind:
            return _dense(fields, kind, folder)
        case _:
            return FeatureReadout((0,))


def _dense(fields: Fields, kind: Literal["vector", "probe"], folder: Path) -> Readout:
    faults, path = fields.faults, f"{fields.path}.{kind}"
    tensors, site = fields.tensors(kind, folder), fields.site("site")
    if kind == "probe":
        weight = vector_in(tensors, "weight", path, faults)
        bias = tensors["bias"].float().sum().item() if "bias" in tensors else 0.0
        return FeatureReadout((0,)) if weight is None else ProbeReadout(site, weight, bias)
    vector = vector_in(tensors, "vector", path, faults)
    try:
        return FeatureReadout((0,)) if vector is None else CosineReadout(site, vector)
    except ConfigError as error:
        faults.append(f"{path}: {str(error).rstrip('.')}")
        return FeatureReadout((0,))
