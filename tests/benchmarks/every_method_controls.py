"""A plan's own control: the same acts of the same size, at the same places, in other directions.

Random directions at one site (`every_method_null`) are noise of the same KL. But a method may act
at many sites, on neurons, behind gates or on weights, so each plan is also held against itself with
its directions lost: what it reads, when and how strongly it acts stay. At a site all Δh go through
one signed permutation of coordinates, which keeps their lengths and the angles between them. Maps
of single neurons are moved to other neurons of their layer instead, and scaled to the plan's dose,
since dampening is what they do; projections of a weight are put on random directions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Resid
from saesteer.models import Model
from saesteer.steer import Plan, WeightEdit, affine
from saesteer.steer.affine_maps import AffineEach
from saesteer.steer.checks import ready
from saesteer.steer.intervention import Intervention


@final
@dataclass(frozen=True, eq=False)
class Turned(Intervention):
    """Another intervention's Δh with its coordinates permuted and signs flipped."""

    inner: Intervention
    order: Tensor
    signs: Float[Tensor, " width"]

    @property
    def width(self) -> int:
        """The other's."""
        return self.inner.width

    def describe(self) -> str:
        """`turned: add a vector`."""
        return f"turned: {self.inner.describe()}"

    def delta(self, resid: Resid) -> Resid:
        """P Δh."""
        return self.inner.delta(resid)[..., self.order] * self.signs

    def constant(self) -> Float[Tensor, " width"] | None:
        """P Δh where Δh is the same everywhere."""
        vector = self.inner.constant()
        return None if vector is None else vector[self.order] * self.signs

    def to(self, device: torch.device | str) -> Turned:
        """The same on `device`."""
        moved = self.inner.to(device)
        return replace(self, inner=moved, order=self.order.to(device), signs=self.signs.to(device))


def scrambled(plan: Plan, model: Model, seed: int) -> Plan | None:
    """The plan with its directions lost; None for one that edits nothing but the prompt."""
    if not plan.edits and not plan.weight_edits:
        return None
    edits = [
        replace(e, intervention=_turned(ready(e.intervention, model), seed)) for e in plan.edits
    ]
    weights = [_drawn(e, model, _draws(seed, index)) for index, e in enumerate(plan.weight_edits)]
    acts = (*edits, *weights, *plan.controls, *plan.prompt_edits)
    return Plan(*acts, strength=plan.strength, name=f"{plan.name}, scrambled")


def _turned(act: Intervention, seed: int) -> Intervention:
    draws = _draws(seed, 20 * act.site.order[0] + act.site.order[1])
    order = torch.randperm(act.width, generator=draws)
    if isinstance(act, AffineEach) and act.site.kind == "neurons":
        return affine(act.site, act.weight[order], act.bias[order])
    signs = torch.randint(0, 2, (act.width,), generator=draws) * 2.0 - 1.0
    return Turned(act.site, act, order, signs)


def _drawn(edit: WeightEdit, model: Model, draws: torch.Generator) -> WeightEdit:
    """ΔW of the same size: c W Q Qᵀ with random Q for c W V Vᵀ, else rows permuted and flipped."""
    if edit.untie and edit.right is not None:
        weight = model.layout.unembed.weight.detach().float().cpu()  # type: ignore[union-attr]
        factor = float(edit.change.norm() / (weight @ edit.right.T).norm())
        random = torch.randn(edit.right.T.shape, generator=draws)
        basis = torch.linalg.qr(random).Q
        return replace(edit, change=-factor * (weight @ basis), right=basis.T.contiguous())
    rows = edit.change.shape[-2]
    order = torch.randperm(rows, generator=draws)
    signs = torch.randint(0, 2, (rows, 1), generator=draws) * 2.0 - 1.0
    return replace(edit, change=edit.change[..., order, :] * signs)


def _draws(seed: int, place: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * seed + place)
