"""Whether a model can carry out what a plan holds, and what the model itself has to supply."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from saesteer.errors import DimensionError, PlanError
from saesteer.models import Model, check_change
from saesteer.steer.control import Control
from saesteer.steer.edit import Edit
from saesteer.steer.feature_edits import FeatureEdit, Replace
from saesteer.steer.intervention import AddScaled, Intervention
from saesteer.steer.norms import typical_norm
from saesteer.steer.session import unsteered
from saesteer.steer.topk_reader import TopKReader

if TYPE_CHECKING:
    from saesteer.steer.plan import Plan

FINGERPRINTS = ("weights", "tokenizer")
"""Parts of a plan's stamp that tell models apart; the name beside them is for people."""


def check_plan(plan: Plan, model: Model) -> None:
    """Make sure that the model can carry a plan out.

    Raises:
        SiteError, DimensionError, PlanError: it can't.
    """
    for edit in plan.edits:
        check_edit(edit, model)
    for change in plan.weight_edits:
        check_change(model.hf, change)
    for control in plan.controls:
        check_control(control, model)


def common_stamp(first: Plan, second: Plan) -> dict[str, str]:
    """The fingerprints of the model that two plans were saved for, as far as either knows them.

    Raises:
        PlanError: they were saved for different ones.
    """
    for part in FINGERPRINTS:
        own, other = first.stamp.get(part), second.stamp.get(part)
        if own is not None and other is not None and own != other:
            raise PlanError(
                f"{first.name} and {second.name} can't be added: they were saved for models with "
                f"other {part} ({first.stamp.get('model', 'one')}, {own}, and "
                f"{second.stamp.get('model', 'another')}, {other}); fit one of them again."
            )
    return {**second.stamp, **first.stamp}


def check_edit(edit: Edit, model: Model) -> None:
    """Make sure that the model can carry out an edit.

    Raises:
        SiteError, DimensionError, PlanError: as for `Attachment`.
    """
    site = model.check_site(edit.intervention.site)
    width = model.layout.width(site)
    if edit.intervention.width != width:
        raise DimensionError(
            f"{edit.label}: made for width {edit.intervention.width}, but {model.name} has width "
            f"{width} at {site}; use an SAE or vector of this model."
        )
    for read in edit.reads:
        if model.check_site(read).order > site.order:
            raise PlanError(
                f"{edit.label}: it reads {read}, which a pass reaches after {site}; "
                f"edit at {read} or later, or read at {site} or earlier."
            )


def check_control(control: Control, model: Model) -> None:
    """Make sure that the model has what a control's gate reads.

    Raises:
        SiteError: it has not.
    """
    for site in control.gate.sites:
        model.check_site(site)


def ready(intervention: Intervention, model: Model) -> Intervention:
    """The intervention with what the model has to supply filled in."""
    match intervention:
        case AddScaled(typical_norm=None) | Replace(typical_norm=None):
            with unsteered(model):
                return replace(intervention, typical_norm=typical_norm(model, intervention.site))
        case FeatureEdit(reader=TopKReader() as reader) if model.dtype == torch.bfloat16:
            return replace(intervention, reader=replace(reader, rank_in="bfloat16"))
        case _:
            return intervention
