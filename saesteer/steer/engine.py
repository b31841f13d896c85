"""One plan attached to one model: which edits act at a site, in one fused step.

All edits of a site read the activation as it came and their changes are added together, in fp32,
rounded once. Positions that no edit touches are passed on bit for bit.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from saesteer.errors import DimensionError, PlanError
from saesteer.models import Model, Site, check_change
from saesteer.models.weights import Change
from saesteer.steer.edit import Edit
from saesteer.steer.feature_edits import Replace
from saesteer.steer.follow import CacheStates
from saesteer.steer.frame import Frame
from saesteer.steer.gate import Always, Gate
from saesteer.steer.intervention import AddScaled, Intervention
from saesteer.steer.norms import typical_norm
from saesteer.steer.schedule import ReadingSchedule
from saesteer.steer.session import decode_plainly, unsteered
from saesteer.steer.trace import Deed, Evidence, PassRecord, Trace

if TYPE_CHECKING:
    from saesteer.steer.plan import Plan

_NUMBERS = itertools.count()


@final
@dataclass(eq=False)
class _Act:
    """An edit made ready for one model; tensors are moved to each device once."""

    index: int
    edit: Edit
    strength: float
    intervention: Intervention
    placed: dict[torch.device, Intervention] = field(default_factory=dict)

    def on(self, device: torch.device) -> Intervention:
        if device not in self.placed:
            self.placed[device] = self.intervention.to(device)
        return self.placed[device]


@final
@dataclass(eq=False)
class _Pass:
    """What one attachment knows of one forward pass."""

    record: PassRecord
    states: dict[int, Any]
    readings: dict[Site, Tensor] = field(default_factory=dict)
    opened: dict[int, Tensor] = field(default_factory=dict)
    worked: dict[Any, Any] = field(default_factory=dict)


@final
class Attachment:
    """The visitor that carries a plan out.

    Raises:
        SiteError, DimensionError: the model has no such site, or one of another width.
        PlanError: a gate reads a site that the pass reaches after an edit that it opens, or a
            weight that the model does not have.
    """

    def __init__(self, plan: Plan, model: Model) -> None:
        self.model = model
        self._number = next(_NUMBERS)
        self._acts: dict[Site, list[_Act]] = {}
        for index, edit in enumerate(plan.edits):
            check_edit(edit, model)
            if strength := plan.strength * edit.strength:
                act = _Act(index, edit, strength, _ready(edit.intervention, model))
                self._acts.setdefault(edit.intervention.site, []).append(act)
        for change in plan.weight_edits:
            check_change(model.hf, change)
        self.weight_changes: tuple[tuple[Change, float], ...] = tuple(
            (change, strength)
            for change in plan.weight_edits
            if (strength := plan.strength * change.strength)
        )
        gates = [act.edit.gate for acts in self._acts.values() for act in acts]
        self._gates = {id(g): g for g in gates if not isinstance(g, Always)}
        self._reads = {s for acts in self._acts.values() for act in acts for s in act.edit.reads}
        self.sites = tuple(sorted({*self._acts, *self._reads}, key=lambda s: (s.order, str(s))))
        decode = None if model.tokenizer is None else _decoder(model.tokenizer)
        throughout = [f"{change.label}, strength {s:g}" for change, s in self.weight_changes]
        self.trace = Trace([edit.label for edit in plan.edits], decode, throughout)
        self._hung: list[CacheStates] = []

    def begin(self, frame: Frame, cache: Any) -> None:
        """Open a record, and find what the gates remember of this text."""
        record = PassRecord.of(frame)
        self.trace.passes.append(record)
        frame.memo[self] = _Pass(record, self._states(frame, cache))

    def end(self, frame: Frame, cache: Any) -> None:
        """Hang states on a cache that the pass itself has made."""
        now = frame.memo.get(self)
        if cache is not None and isinstance(now, _Pass) and self._remembers(now.states):
            self._hang(cache, now.states, len(frame.valid))

    def visit(self, site: Site, resid: Tensor, frame: Frame) -> Tensor | None:
        """Keep the reading for gates, then apply this site's edits."""
        now = frame.memo.get(self)
        if now is None:
            return None  # attached while this pass was under way
        if site in self._reads:
            now.readings[site] = resid.detach()
        acts = self._acts.get(site)
        return None if acts is None else self._fused(acts, resid, frame, now)

    def close(self) -> None:
        """Take the gates' states off the caches."""
        for states in self._hung:
            states.drop(self._number)

    def _fused(self, acts: list[_Act], resid: Tensor, frame: Frame, now: _Pass) -> Tensor:
        """The activation with all changes of its site."""
        wide = resid.float()
        moves, masks = [], []
        for act in acts:
            mask = self._mask(act.edit, frame, now).to(resid.device)
            move = act.on(resid.device).delta(wide) * self._dose(act, frame, now, resid.device)
            moves.append(move if len(acts) == 1 else torch.where(mask[..., None], move, 0.0))
            masks.append(mask)
        total = moves[0] if len(moves) == 1 else torch.stack(moves).sum(0)
        touched = masks[0] if len(masks) == 1 else torch.stack(masks).any(0)
        self._note(acts, wide, moves, masks, total, touched, now.record)
        return torch.where(touched[..., None], (wide + total).to(resid.dtype), resid)

    def _dose(self, act: _Act, frame: Frame, now: _Pass, device: torch.device) -> float | Tensor:
        match act.edit.schedule:
            case None:
                return act.strength
            case ReadingSchedule() as schedule:
                readings = {site: now.readings[site] for site in schedule.sites}
                factor = schedule.factor(readings, now.worked)
            case schedule:
                factor = schedule.factor(frame)
        return act.strength * factor.to(device)[..., None]

    def _mask(self, edit: Edit, frame: Frame, now: _Pass) -> Tensor:
        where = edit.where.mask(frame)
        return where if isinstance(edit.gate, Always) else where & self._open(edit.gate, frame, now)

    @torch.no_grad()
    def _open(self, gate: Gate, frame: Frame, now: _Pass) -> Tensor:
        """Where a gate is open; asked once per pass, whoever needs it."""
        key = id(gate)
        if key not in now.opened:
            notes: dict[str, Any] = {}
            readings = {site: now.readings[site] for site in gate.sites}
            opened = gate.open(readings, frame.with_evidence(notes), now.states.get(key))
            now.opened[key] = opened.to(frame.valid.device)
            now.record.evidence.append(Evidence(gate, notes, now.opened[key]))
        return now.opened[key]

    def _note(
        self,
        acts: list[_Act],
        wide: Tensor,
        moves: list[Tensor],
        masks: list[Tensor],
        total: Tensor,
        touched: Tensor,
        record: PassRecord,
    ) -> None:
        """Norms for the trace; a site recomputed for the backward pass counts once."""
        site = acts[0].edit.intervention.site
        if site in record.norms:
            return
        record.norms[site] = _norm(wide)
        record.moved[site] = moved = _norm(total)
        record.touched[site] = touched
        for act, move, mask in zip(acts, moves, masks, strict=True):
            size = moved if len(acts) == 1 else _norm(move)
            record.deeds.append(Deed(act.index, site, mask, size))

    def _states(self, frame: Frame, cache: Any) -> dict[int, Any]:
        if not self._gates:
            return {}
        hung = None if cache is None else CacheStates.peek(cache)
        known = None if hung is None or frame.first_pass else hung.of(self._number)
        if known is not None:
            return known
        return {key: gate.new_state() for key, gate in self._gates.items()}

    def _hang(self, cache: Any, states: dict[int, Any], batch: int) -> None:
        hung = CacheStates.on(cache)
        hung.put(self._number, states, batch)
        if not any(known is hung for known in self._hung):
            self._hung.append(hung)

    @staticmethod
    def _remembers(states: dict[int, Any]) -> bool:
        return any(state is not None for state in states.values())


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


def _ready(intervention: Intervention, model: Model) -> Intervention:
    """Fill in what the model has to supply."""
    match intervention:
        case AddScaled(typical_norm=None) | Replace(typical_norm=None):
            with unsteered(model):
                return replace(intervention, typical_norm=typical_norm(model, intervention.site))
        case _:
            return intervention


def _norm(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tensor.detach(), dim=-1)


def _decoder(tokenizer: Any) -> Any:
    return lambda ids: decode_plainly(tokenizer, ids)
