"""lm-evaluation-harness' `steered` model: a CSV of SAE features, or a `.pt` of vectors by module.

"add" adds coefficient x vector to every position of a module's output. "clamp" sets the part of the
activation along the unit vector d, measured from the bias b where there is one, to the coefficient
c: h + d (c - d·(h - b)). Modules are named from the base model on: `layers.9`.

Tables are read and not written: the harness carries out one row a module, and since 0.4.9.2 none
that adds ("Bias is not supported"); a `.pt` file holds the same.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from saesteer.axes import Vector
from saesteer.errors import PlanError
from saesteer.models import Model, Site
from saesteer.saes import SAE, load_sae
from saesteer.steer.edit import Edit
from saesteer.steer.exchange.vectors import constant_vectors, one_vector
from saesteer.steer.intervention import Intervention, add
from saesteer.steer.low_rank import low_rank
from saesteer.steer.plan import Plan
from saesteer.steer.where import all

_NEEDED = {"sparse_model", "feature_index", "steering_coefficient"}
_MODULE = re.compile(r"(?:layers|h)\.(\d+)(?:\.(mlp|self_attn|attention|attn))?")
_PARTS = {None: "resid_post", "mlp": "mlp_out"}


def read_csv(path: Path, _site: Site | None) -> Plan:
    """The features that a CSV names, as vectors of the SAEs that it names.

    Raises:
        PlanError: no such table, a row that can't be carried out, or two of one module.
        SaeError, NetworkError: an SAE that can't be found.
    """
    edits = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PlanError(f"{path} can't be read as CSV: {error}") from error
    for number, row in enumerate(rows, 2):
        who = f"{path} line {number}"
        if missing := _NEEDED - {key for key, cell in row.items() if cell is not None}:
            raise PlanError(f"{who}: columns {sorted(missing)} are missing.")
        if None in row:
            raise PlanError(f"{who}: it has more cells than the table has columns.")
        edits.append(_edit(_from_sae(row, who), who))
        site = edits[-1].intervention.site
        if site in {edit.intervention.site for edit in edits[:-1]}:
            raise PlanError(
                f"{who}: {site} has a row already, and lm-eval carries out the last one alone; "
                "keep one row a module."
            )
    if not edits:
        raise PlanError(f"{path} has no rows.")
    return Plan(*edits, name=path.stem)


def plan_of(held: Mapping[Any, Any], path: Path) -> Plan:
    """The plan of a `.pt` file's content, vectors by module.

    Raises:
        PlanError: a part is missing or of another kind.
    """
    edits = []
    for module, told in held.items():
        who = f"{path}: {module}"
        edits.append(_edit({**told, "site": site_of(str(module))}, who))
    return Plan(*edits, name=path.stem)


def write_pt(plan: Plan, path: Path, model: Model | None) -> tuple[str, ...]:
    """Write a plan's vectors by module.

    Raises:
        PlanError: the plan does something else than add vectors.
    """
    vectors, notes = constant_vectors(plan, "lm-eval's steered")
    held = {
        module_of(site, model): {
            "steering_vector": vector,
            "steering_coefficient": 1.0,
            "action": "add",
            "bias": None,
            "head_index": None,
        }
        for site, vector in vectors.items()
    }
    buffer = BytesIO()  # torch.save itself raises no OSError where a disk is full
    torch.save(held, buffer)
    path.write_bytes(buffer.getvalue())
    return notes


def site_of(module: str) -> Site:
    """The site of a module's output, `layers.9` or `layers.9.mlp`; a site's own name will do.

    Raises:
        SiteError: neither.
    """
    found = _MODULE.fullmatch(module)
    if found is None:
        return Site.parse(module)
    return Site(int(found[1]), _PARTS.get(found[2], "attn_out"))


def module_of(site: Site, model: Model | None) -> str:
    """The name of the module whose output a site is.

    Raises:
        PlanError: the site is no module's output.
    """
    if model is not None:
        point = model.layout.point(model.check_site(site))
        named = {id(m): name for name, m in model.layout.base.named_modules()}
        if point.side == "out" and point.columns is None and id(point.module) in named:
            return named[id(point.module)]
    elif site.kind in ("resid_post", "mlp_out"):
        return f"layers.{site.layer}" + (".mlp" if site.kind == "mlp_out" else "")
    raise PlanError(f"{site} is not the output of a module that lm-eval can name.")


def _edit(told: Mapping[str, Any], who: str) -> Edit:
    if told.get("head_index") not in (None, ""):
        raise PlanError(f"{who}: head_index is set; single heads of its kind are no sites here.")
    site, vector = told["site"], one_vector(told.get("steering_vector"), f"{who}: steering_vector")
    given = told.get("steering_coefficient")
    try:
        coefficient = 1.0 if given in (None, "") else float(given)
    except (TypeError, ValueError, RuntimeError):
        raise PlanError(f"{who}: steering_coefficient is {given!s:.40}, no number.") from None
    match told.get("action") or "add":
        case "add":
            act: Intervention = add(site, vector * coefficient)
        case "clamp":
            unit = vector / vector.norm()
            offset = float(unit @ _bias(told.get("bias"), vector, who))
            held = torch.tensor([coefficient + offset])
            act = low_rank(site, -unit[None], held, unit[None])
        case other:
            raise PlanError(f"{who}: action {other!r}, expected add or clamp.")
    return Edit(act, where=all(special=True))


def _bias(given: Any, vector: Vector, who: str) -> Vector:
    """Where a clamp measures from: zeros where a file does not say."""
    if given is None:
        return torch.zeros_like(vector)
    bias = one_vector(given, f"{who}: bias")
    if bias.shape != vector.shape:
        raise PlanError(f"{who}: bias has width {len(bias)}, its steering_vector {len(vector)}.")
    return bias


def _from_sae(row: Mapping[str, str], who: str) -> dict[str, Any]:
    loader = row.get("loader") or "sparsify"
    if loader != "sae_lens":
        raise PlanError(f"{who}: loader {loader!r} can't be read here; only sae_lens.")
    sae_id = row.get("sae_id")
    sae = load_sae((row["sparse_model"], sae_id) if sae_id else row["sparse_model"])
    try:
        index = int(row["feature_index"])
    except ValueError:
        raise PlanError(f"{who}: feature_index {row['feature_index']!r} is no number.") from None
    (feature,) = sae.check_features([index])
    return {
        "site": _place(row.get("hookpoint") or "", sae),
        "steering_vector": sae.w_dec[feature],
        "bias": sae.b_dec,
        "action": row.get("action"),
        "steering_coefficient": row["steering_coefficient"],
        "head_index": row.get("head_index"),
    }


def _place(hookpoint: str, sae: SAE) -> Site:
    return site_of(hookpoint) if hookpoint else sae.site
