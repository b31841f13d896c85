"""A fitted concept in a folder that can be shared: `manifest.json`, and tensors for dense readouts.

A concept over features holds the fingerprint of its SAE and is refused for any other; a dense one
that of its model. Nothing in the folder is executed, and no path is read from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from saesteer.errors import ConfigError, OutputError
from saesteer.features.concept_train import FittedConcept
from saesteer.features.concepts import Concept
from saesteer.features.readouts import CosineReadout, FeatureReadout, ProbeReadout, Readout
from saesteer.features.trees import TreeReadout
from saesteer.files import path_of, save_tensors, sha256_of, whole_folder
from saesteer.models import Model, Site
from saesteer.saes.sae import SAE

FORMAT = 1
MANIFEST, TENSORS = "manifest.json", "tensors.safetensors"


def save_concept(fitted: FittedConcept, folder: str | Path, model: Model, sae: SAE) -> Path:
    """Write a concept; the folder appears whole or not at all, in place of an older concept.

    Raises:
        OutputError: the folder can't be written, or holds something else.
    """
    folder, concept = path_of(folder, OutputError), fitted.concept
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise OutputError(f"{folder} exists and is no saved concept; choose another folder.")
    tensors: dict[str, Tensor] = {}
    body: dict[str, Any] = {
        "format": FORMAT,
        "name": concept.name,
        "kind": fitted.kind,
        "readout": _pack(concept.readout, tensors),
        "threshold": concept.threshold,
        "aggregate": concept.aggregate,
        "over": concept.over,
        "confidence": {"slope": fitted.slope, "offset": fitted.offset},
        "site": str(sae.site),
        "model": {"name": model.name, "weights": model.fingerprint()},
        "sae": {"name": sae.name, "fingerprint": concept.sae} if concept.sae else None,
        "scores": {split: scores.to_dict() for split, scores in fitted.scores.items()},
    }
    with whole_folder(folder) as made:
        if tensors:
            save_tensors(tensors, made / TENSORS)
            body["tensors_sha256"] = sha256_of(made / TENSORS)
        (made / MANIFEST).write_text(json.dumps(body, indent=1, allow_nan=False) + "\n")
    return folder


def load_concept(
    folder: str | Path, *, sae: SAE | None = None, model: Model | None = None
) -> Concept:
    """Read a concept; without `sae` it is checked against the one it is used with, when it is.

    Raises:
        ConfigError: no such folder, a damaged one, or one for another model.
        SaeError: it was fitted on another SAE.
    """
    folder = path_of(folder, ConfigError)
    body, tensors = _read(folder)
    try:
        concept = Concept(
            body["name"],
            _unpack(body["readout"], tensors),
            float(body["threshold"]),
            body["aggregate"],
            body["over"],
            sae=body["sae"]["fingerprint"] if body["sae"] else "",
        )
        fitted_on = body["model"]
        weights = fitted_on["weights"]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"concept {folder} is damaged: {error!r}. Fit it again.") from error
    if sae is not None:
        concept.check_sae(sae)
    if model is not None and model.fingerprint() != weights:
        raise ConfigError(
            f"concept {folder} was fitted on {fitted_on['name']}, whose weights are not those of "
            f"{model.name}; fit it on this model."
        )
    return concept


def _read(folder: Path) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / TENSORS
    try:
        body = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise ValueError("it is of another format")
        if "tensors_sha256" not in body:
            return body, {}
        if sha256_of(path) != body["tensors_sha256"]:
            raise ValueError(f"{TENSORS} has changed since")
        return body, load_file(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{folder} is no concept folder: it has no {error.filename}.") from None
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise ConfigError(f"concept {folder} can't be read: {error}. Fit it again.") from error


def _pack(readout: Readout, tensors: dict[str, Tensor]) -> dict[str, Any]:
    match readout:
        case FeatureReadout() | TreeReadout():
            return {"kind": type(readout).__name__, **asdict(readout)}
        case CosineReadout(site=site, vector=vector):
            tensors["vector"] = vector.detach().cpu().contiguous()
            return {"kind": "CosineReadout", "site": str(site)}
        case ProbeReadout(site=site, weight=weight, bias=bias):
            tensors["weight"] = weight.detach().cpu().contiguous()
            return {"kind": "ProbeReadout", "site": str(site), "bias": bias}


def _unpack(body: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Readout:
    fields = {key: value for key, value in body.items() if key != "kind"}
    match body["kind"]:
        case "FeatureReadout" | "TreeReadout" as kind:
            made = FeatureReadout if kind == "FeatureReadout" else TreeReadout
            return made(**{key: tuple(value) for key, value in fields.items()})
        case "CosineReadout":
            return CosineReadout(Site.parse(fields["site"]), tensors["vector"])
        case "ProbeReadout":
            return ProbeReadout(Site.parse(fields["site"]), tensors["weight"], fields["bias"])
        case other:
            raise ValueError(f"a readout of kind {other!r}")
