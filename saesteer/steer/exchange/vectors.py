"""What of a plan is a vector added at a site: all that most other formats can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saesteer.axes import Vector
from saesteer.errors import PlanError
from saesteer.models import Site
from saesteer.steer.edit import Edit
from saesteer.steer.gate import Always
from saesteer.steer.intervention import Add, finite
from saesteer.steer.plan import Plan
from saesteer.steer.where import Everywhere, Where, all


class Vectors(NamedTuple):
    """Vectors by site, strengths in them, and what is lost beside them."""

    by_site: dict[Site, Vector]
    notes: tuple[str, ...]


def constant_vectors(plan: Plan, format_name: str) -> Vectors:
    """The vectors that a plan adds, those of one site summed.

    Raises:
        PlanError: an edit depends on the activation, on a gate or on time, or edits no activation.
    """
    by_site: dict[Site, Tensor] = {}
    notes: dict[str, None] = {}
    if not plan.edits or len(plan.edits) < len(plan.acts):
        raise PlanError(f"{format_name} holds vectors alone; {plan.name} has none, or other acts.")
    for edit in plan.edits:
        site, vector = edit.intervention.site, _constant(edit, format_name)
        by_site[site] = by_site.get(site, torch.zeros_like(vector)) + vector * plan.strength
        if not (isinstance(edit.where, Everywhere) and edit.where.special):
            notes[f"{edit.label}: {format_name} edits every position, this plan only some"] = None
    return Vectors({site: v.cpu().contiguous() for site, v in by_site.items()}, tuple(notes))


def added_everywhere(
    vectors: Mapping[Site, Tensor],
    name: str,
    who: str,
    where: Where | None = None,
) -> Plan:
    """A plan that adds vectors `[width]`, by default at every token, special ones too.

    They come from files, so what they are is checked here.

    Raises:
        PlanError: none, or one that is no vector of finite numbers.
    """
    if not vectors:
        raise PlanError(f"{who} holds no vectors.")
    acts, where = [], where or all(special=True)
    for site, vector in vectors.items():
        acts.append(Edit(Add(site, one_vector(vector, f"{who}: {site}")), where=where))
    return Plan(*acts, name=name)


def one_vector(given: Any, who: str) -> Vector:
    """A vector that a file holds, in fp32.

    Raises:
        PlanError: it is none, or not of finite floats.
    """
    if not isinstance(given, Tensor) or given.ndim != 1 or not given.is_floating_point():
        told = f"{given.dtype} of shape {list(given.shape)}" if isinstance(given, Tensor) else given
        raise PlanError(f"{who} has {told!s:.60}, expected one vector of floats.")
    return finite(given, who)


def _constant(edit: Edit, format_name: str) -> Tensor:
    vector = edit.intervention.constant()
    if vector is None or not isinstance(edit.gate, Always) or edit.schedule is not None:
        raise PlanError(
            f"{edit.label} is no fixed vector (or has a gate or schedule), which is all that "
            f"{format_name} can hold; save the plan as a folder instead."
        )
    return vector.float() * edit.strength
