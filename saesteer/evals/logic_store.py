"""Fitted readers in a folder, so that a second run with the same settings need not fit again.

The folder is named by a digest of all that the fit depends on; it appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from saesteer.errors import OutputError, SaeError
from saesteer.evals.logic_reader import CONCEPTS, Saes, StatementReader
from saesteer.features.concepts import Concept, FeatureReadout, ProbeReadout, Readout
from saesteer.features.identity import IdentityReadout
from saesteer.files import save_tensors, whole_folder
from saesteer.models import Site
from saesteer.saes import load_sae, save_sae

FORMAT = 8
"""Raised whenever generating or fitting changes, so that readers of before are not taken."""
Readers = Mapping[str, StatementReader]


def readers_folder(root: str | Path, saes: Saes, **settings: Any) -> Path:
    """Where readers of these settings are kept; the SAEs' own numbers count, not their names."""
    told = [FORMAT, settings, [sae.fingerprint() for sae in saes]]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    return Path(root) / f"readers-{digest.hexdigest()[:16]}"


def load_or_fit(folder: Path, saes: Saes, fit: Callable[[], Readers]) -> Readers:
    """The folder's readers, or fitted ones that are then kept there.

    A folder that can't be read is fitted again, one that can't be written is not an error: keeping
    readers only saves time.
    """
    try:
        return load_readers(folder, saes)
    except (OSError, SafetensorError, SaeError, KeyError, ValueError, RecursionError):
        readers = fit()
    try:
        save_readers(readers, folder, saes)
    except OutputError:
        return readers
    return readers


def save_readers(readers: Readers, folder: Path, saes: Saes) -> None:
    """Write readers; one over other SAEs than `saes` brings these along.

    Raises:
        OutputError: the folder can't be written.
    """
    with whole_folder(folder) as made:
        tensors: dict[str, Tensor] = {}
        manifest: dict[str, Any] = {}
        for name, reader in readers.items():
            own = reader.saes if reader.saes is not saes else ()
            for index, sae in enumerate(own):
                save_sae(sae, made / f"{name}-{index}")
            manifest[name] = {
                "given": reader.saes is saes,
                "own": len(own),
                "identity": reader.identity.threshold,
                "alike": reader.identity.alike,
                "roles": [_pack(c, f"{name}.{c.name}", tensors) for c in reader.concepts],
            }
            tensors[f"{name}.projection"] = reader.identity.projection.contiguous()
            tensors[f"{name}.centre"] = reader.identity.centre.contiguous()
        save_tensors(tensors, made / "tensors.safetensors")
        (made / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def load_readers(folder: Path, saes: Saes) -> Readers:
    """Readers as `save_readers` wrote them.

    Raises:
        OSError, SafetensorError, SaeError, KeyError, ValueError: the folder is missing or damaged.
    """
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "tensors.safetensors")
    readers: dict[str, StatementReader] = {}
    for name, kept in manifest.items():
        own = tuple(load_sae(folder / f"{name}-{index}") for index in range(kept["own"]))
        site = saes[0].site
        concepts = [
            Concept(role, _unpack(one, f"{name}.{role}", tensors, site), one["threshold"])
            for role, one in zip(CONCEPTS, kept["roles"], strict=True)
        ]
        projection, centre = tensors[f"{name}.projection"], tensors[f"{name}.centre"]
        identity = IdentityReadout(projection, centre, kept["identity"], kept["alike"])
        readers[name] = StatementReader(tuple(concepts), identity, saes if kept["given"] else own)
    return readers


def _pack(concept: Concept, key: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    body: dict[str, Any] = {"threshold": concept.threshold}
    match concept.readout:
        case FeatureReadout(features=features, weights=weights):
            return body | {"features": list(features), "weights": list(weights)}
        case ProbeReadout(weight=weight, bias=bias):
            tensors[key] = weight.contiguous()
            return body | {"bias": bias}
        case other:
            raise AssertionError(f"roles are read by features or probes, not by a {other}")


def _unpack(
    body: Mapping[str, Any], key: str, tensors: Mapping[str, Tensor], site: Site
) -> Readout:
    if "features" in body:
        return FeatureReadout(tuple(body["features"]), tuple(body["weights"]))
    return ProbeReadout(site, tensors[key], body["bias"])
