"""A plan as permanent hooks that only read buffers, for models that are compiled.

Compiled code does not see hooks that come or go, so these stay, and the strength is a tensor that
they read: turning it changes no code, and 0 passes every activation on bit for bit. A pass works
out one dose for each edit and position, `[batch, pos]`, and every site adds dose times Δh. There is
no trace, and nothing that would need memory between passes or a number from the device.
"""

from __future__ import annotations

import functools
from types import TracebackType
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from saesteer.errors import PlanError
from saesteer.models import Model, Site, as_model, install, remove
from saesteer.models.offload import device_of
from saesteer.steer.acts import narrow
from saesteer.steer.affine_maps import Affine, AffineEach
from saesteer.steer.calls import GenerateWrapper, read_prompt
from saesteer.steer.checks import check_edit, ready
from saesteer.steer.edit import Edit, finite_strength
from saesteer.steer.feature_edits import Ablate, Clamp, FeatureAdd, FeatureEdit, FeatureShift, Scale
from saesteer.steer.gate import Always
from saesteer.steer.graph_frame import graph_frame
from saesteer.steer.heads import columns_of
from saesteer.steer.intervention import Add, AddScaled, Intervention, ProjectOut
from saesteer.steer.low_rank import LowRank
from saesteer.steer.schedule import Constant, Decay, Linear
from saesteer.steer.scored import Lengths, refuse_unsteerable, scored_prompt
from saesteer.steer.topk_reader import TopKReader
from saesteer.steer.where import Everywhere, First, Generated, Last, Positions, PromptTokens

if TYPE_CHECKING:
    from saesteer.steer.plan import Plan

_DENSE = (Add, AddScaled, ProjectOut, Affine, AffineEach, LowRank)
_SPARSE = (Clamp, Scale, Ablate, FeatureAdd, FeatureShift)
_WHERE = (Generated, PromptTokens, Last, Everywhere, First, Positions)
_TIMED = (Constant, Decay, Linear)


@final
class _TellingGenerate(GenerateWrapper):
    """`generate` that says first where the prompts end."""

    whose: CompiledPlan

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Generate, once the plan knows the prompts' lengths."""
        self.whose.set_prompt_lengths(read_prompt(self.owner, args, kwargs).lengths)
        return self.original(*args, **kwargs)


@final
class CompiledPlan(nn.Module):
    """A plan's permanent hooks on one model; a context manager that takes them off.

    Install it before `torch.compile`, and turn the strength as often as you like.

    Attributes:
        strength: the plan's strength, a buffer without axes.
        amounts: each edit's own strength, a buffer `[edits]`.
        prompt_lengths: real tokens of each row's prompt, a buffer `[rows]`, or None; `generate`
            sets it by itself.

    Raises:
        SiteError, DimensionError, PlanError: the model, or a compiled form, can't carry it out.
    """

    strength: Tensor
    amounts: Tensor
    prompt_lengths: Tensor | None

    def __init__(self, plan: Plan, model: Model | Any, prompt_lengths: Lengths | None) -> None:
        super().__init__()
        self._model = model = as_model(model)
        refuse_unsteerable(model)
        check_compilable(plan)
        for edit in plan.edits:
            check_edit(edit, model)
        self._edits = plan.edits
        self._special = model.special_ids.to(model.device)
        self._doses: tuple[Tensor, ...] = ()
        amounts = torch.tensor([edit.strength for edit in plan.edits], device=model.device)
        self.register_buffer("strength", torch.tensor(plan.strength, device=model.device))
        self.register_buffer("amounts", amounts)
        self.register_buffer("prompt_lengths", None)
        self.set_prompt_lengths(prompt_lengths)
        self._acts = _by_site(plan.edits, model)
        self._handles: list[Any] = []
        self._wrapper: _TellingGenerate | None = None
        try:
            self._install()
        except BaseException:
            self.remove()
            raise

    def set_strength(self, strength: int | float) -> None:
        """Turn the plan up or down, compiled or not; nothing is compiled again.

        Raises:
            PlanError: it is not finite.
        """
        self.strength.fill_(finite_strength(strength))

    def set_prompt_lengths(self, lengths: Lengths | None) -> None:
        """Say where the prompts of scored texts end; another number of rows may compile again.

        Raises:
            PlanError: lengths that are none.
        """
        prompt = scored_prompt(lengths)
        known = self.prompt_lengths
        if prompt is None or known is None or known.shape != prompt.lengths.shape:
            new = None if prompt is None else prompt.lengths.to(self.strength.device, copy=True)
            self.prompt_lengths = new
        else:
            known.copy_(prompt.lengths)

    def remove(self) -> None:
        """Take the hooks off, and turn the strength to 0 for compiled code, which keeps them."""
        self.strength.zero_()
        remove(self._handles)
        self._handles = []
        if self._wrapper is not None:
            self._wrapper.remove()

    def __enter__(self) -> CompiledPlan:
        """The plan itself; its hooks are there already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Take the hooks off."""
        self.remove()

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledPlan:
        """Shared: a model that is deep-copied under it keeps its hooks, and has its strength."""
        return self

    def _install(self) -> None:
        base, layout = self._model.layout.base, self._model.layout
        self._handles = [
            base.register_forward_pre_hook(self._begin, with_kwargs=True, prepend=True),
            base.register_forward_hook(self._end),
        ]
        for site in self._acts:
            edit = functools.partial(self._steer, site)
            self._handles.append(install(layout.point(site), edit, prepend=True))
        hf = self._model.hf
        if hasattr(hf, "generate"):
            self._wrapper = _TellingGenerate(hf, self)

    def _begin(self, _base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What each edit is multiplied by at each position of the pass."""
        frame = graph_frame(args, kwargs, self.prompt_lengths, self._special)
        doses = []
        for edit, amount in zip(self._edits, self.amounts.unbind(), strict=True):
            dose = torch.where(edit.where.chosen(frame), self.strength * amount, 0.0)
            if isinstance(edit.schedule, Decay | Linear):
                dose = dose * edit.schedule.factor(frame)
            doses.append(dose)
        self._doses = tuple(doses)

    def _end(self, _base: nn.Module, _args: Any, _output: Any) -> None:
        self._doses = ()

    def _steer(self, site: Site, resid: Tensor) -> Tensor:
        """The activation with all changes of its site; untouched where every dose is 0."""
        wide = resid.float()
        total, touched = torch.zeros_like(wide), None
        for index, columns, intervention in self._acts[site]:
            dose = self._doses[index].to(resid.device)[..., None]
            moved = intervention.delta(wide[..., columns]) * dose
            total[..., columns] += torch.where(dose != 0, moved, 0.0)
            touched = dose != 0 if touched is None else touched | (dose != 0)
        assert touched is not None
        return torch.where(touched, narrow(wide + total, wide, resid.dtype), resid)


def check_compilable(plan: Plan) -> None:
    """Make sure that a compiled form can carry a plan out.

    Raises:
        PlanError: naming the part that it can't.
    """
    for what, acts in (
        ("controls of decoding", plan.controls),
        ("weight edits", plan.weight_edits),
        ("prompt edits", plan.prompt_edits),
    ):
        if acts:
            _refuse(plan, what)
    if not plan.edits:
        raise PlanError(f"{plan.name} edits no activation, so there is nothing to compile.")
    for edit in plan.edits:
        if not isinstance(edit.gate, Always):
            _refuse(plan, f"gates ({type(edit.gate).__name__})")
        if not isinstance(edit.where, _WHERE):
            _refuse(plan, f"positions that are looked for ({type(edit.where).__name__})")
        if edit.schedule is not None and not isinstance(edit.schedule, _TIMED):
            _refuse(plan, f"schedules that are set or read ({type(edit.schedule).__name__})")
        if not _is_slice(edit.intervention) and not isinstance(edit.intervention, _DENSE):
            _refuse(plan, f"edits that run a whole SAE or model ({edit.label})")


def _is_slice(intervention: Intervention) -> bool:
    if not isinstance(intervention, FeatureEdit) or not isinstance(intervention, _SPARSE):
        return False
    return not isinstance(intervention.reader, TopKReader)


def _refuse(plan: Plan, what: str) -> None:
    raise PlanError(
        f"{plan.name}: a compiled plan can't carry {what}; attach it with plan.on(model) instead."
    )


_Act = tuple[int, slice, Intervention]
"""An edit's place in the plan, the columns that it edits, and what it does."""


def _by_site(edits: tuple[Edit, ...], model: Model) -> dict[Site, list[_Act]]:
    """Edits by the site whose hook makes them; one hook for all heads of a layer."""
    found: dict[Site, list[_Act]] = {}
    for index, edit in enumerate(edits):
        site = edit.intervention.site
        point = model.layout.point(site)
        if point.rows_of is not None:
            raise PlanError(f"{site}: a compiled plan can't reach a site without rows.")
        device = device_of(model.layout.blocks[site.layer])
        made = ready(edit.intervention, model).to(device)
        found.setdefault(site.whole, []).append((index, columns_of(model.layout, site), made))
    return found
