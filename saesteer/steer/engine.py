"""One plan attached to one model: which edits act at a site, in one fused step.

All edits of a site read the activation as it came and their changes are added together, in fp32,
rounded once; in a bfloat16 model a vector that is the same everywhere is rounded before too, as
`steady` says. Positions that no edit touches are passed on bit for bit.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from saesteer.models import Model, Site, check_change
from saesteer.models.weights import Change
from saesteer.steer.acts import Act, narrow
from saesteer.steer.chats import Reader
from saesteer.steer.checks import check_control, check_edit, ready
from saesteer.steer.control import Control
from saesteer.steer.edit import Edit
from saesteer.steer.follow import CacheStates
from saesteer.steer.frame import Frame
from saesteer.steer.gate import Always, Gate
from saesteer.steer.heads import side_by_side
from saesteer.steer.records import Event, Evidence, PassRecord
from saesteer.steer.schedule import DialRow
from saesteer.steer.site_hook import Visit
from saesteer.steer.site_records import Draft
from saesteer.steer.steady import FEW, Answers, Cover, SteadySite, waits
from saesteer.steer.trace import Trace

if TYPE_CHECKING:
    from saesteer.steer.plan import Plan
    from saesteer.steer.where import Where

_NUMBERS = itertools.count()
_NOTHING: dict[int, Any] = {}


@final
@dataclass(eq=False, slots=True)
class _Pass:
    """What one attachment knows of one forward pass."""

    record: PassRecord
    states: dict[int, Any]
    readings: dict[Site, Tensor] = field(default_factory=dict)
    opened: dict[int, Tensor] = field(default_factory=dict)
    covers: dict[int, Cover] = field(default_factory=dict)
    worked: dict[Any, Any] = field(default_factory=dict)

    def cover(self, where: Where, frame: Frame) -> Cover:
        """Where a choice of positions takes in the pass; asked once of each."""
        cover = self.covers[id(where)] = Cover.of(where, frame)
        return cover


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
        self._acts: dict[Site, list[Act]] = {}
        for index, edit in enumerate(plan.edits):
            check_edit(edit, model)
            if strength := plan.strength * edit.strength:
                act = Act(index, edit, strength, ready(edit.intervention, model))
                self._acts.setdefault(edit.intervention.site, []).append(act)
        self._waits = {site: waits(model, site) for site in self._acts}
        self._steady = _steady(self._acts, self._waits)
        for change in plan.weight_edits:
            check_change(model.hf, change)
        self.weight_changes: tuple[tuple[Change, float], ...] = tuple(
            (change, strength)
            for change in plan.weight_edits
            if (strength := plan.strength * change.strength)
        )
        self.controls: Sequence[Control] = plan.controls if plan.strength else ()
        for control in self.controls:
            check_control(control, model)
        gates = [act.edit.gate for acts in self._acts.values() for act in acts]
        gates += [control.gate for control in self.controls]
        self._gates = {id(g): g for g in gates if not isinstance(g, Always)}
        remember = [gate.new_state() is not None for gate in self._gates.values()]
        self._remember = any(remember)
        self.ends = bool(self.controls) or self._remember
        reads = [act.edit.reads for acts in self._acts.values() for act in acts]
        reads += [control.gate.sites for control in self.controls]
        self._reads = {site for sites in reads for site in sites}
        self._answers = Answers()
        for site in self._steady.keys() - self._reads:
            self._steady[site].join(self._answers, model.layout.width(site))
        self._touched = sorted({*self._acts, *self._reads}, key=lambda s: (s.order, str(s)))
        self.sites = tuple(dict.fromkeys(site.whole for site in self._touched))
        decode = None if model.tokenizer is None else Reader(model.tokenizer)
        throughout = [f"{change.label}, strength {s:g}" for change, s in self.weight_changes]
        self.trace = Trace([edit.label for edit in plan.edits], decode, throughout)
        self._hung: list[CacheStates] = []
        self._latest: _Pass | None = None

    def begin(self, frame: Frame, cache: Any, before: Frame | None) -> None:
        """Open a record, close the one before, and find what the gates remember of this text."""
        was: _Pass | None = None if before is None or self.ends else before.memo.get(self)
        if was is not None:
            was.record.close()
        record = PassRecord(frame, self.trace.late)
        if not frame.aside:
            self.trace.passes.append(record)
        frame.memo[self] = _Pass(record, self._states(frame, cache))
        self._answers.tell(frame, record)

    def end(self, frame: Frame, cache: Any) -> None:
        """Hang states on a cache that the pass itself has made."""
        now: _Pass | None = frame.memo.get(self)
        if now is None:
            return
        now.record.close()
        if cache is not None and any(state is not None for state in now.states.values()):
            self._hang(cache, now.states, len(frame.valid))
        if self.controls and not frame.aside:
            self._latest = now
            for control in self.controls:
                self._open(control.gate, frame, now)

    def at(self, site: Site) -> Visit:
        """Keeps the readings for gates, then applies the edits of this site and of its heads."""
        parts = [part for part in self._touched if part.whole == site]
        if parts == [site]:
            return self._at(site)
        reads, acts = ([p for p in parts if p in held] for held in (self._reads, self._acts))
        reading = {part: functools.partial(self._visit, part, True, None) for part in reads}
        return side_by_side(self.model.layout, reading, {part: self._at(part) for part in acts})

    def _at(self, site: Site) -> Visit:
        steady = self._steady.get(site)
        if steady is None or site in self._reads:
            return functools.partial(self._visit, site, site in self._reads, self._acts.get(site))
        return functools.partial(steady.visit, self)

    def quick(self, site: Site) -> SteadySite | None:
        """The same in answers, for the sites that go by them."""
        steady = self._steady.get(site)
        return steady if steady is not None and steady.answers is self._answers else None

    def pause(self) -> None:
        """From the next site on."""
        self._answers.now = None

    def _visit(
        self, site: Site, read: bool, acts: list[Act] | None, resid: Tensor, frame: Frame
    ) -> Tensor | None:
        now: _Pass | None = frame.memo.get(self)
        if now is None:
            return None  # attached while this pass was under way
        if read:
            now.readings[site] = resid.detach() if resid.requires_grad else resid
        return None if acts is None else self._fused(site, acts, resid, frame, now)

    def opened(self, gate: Gate) -> Tensor:
        """Where a control's gate was open in the latest pass, `[batch, pos]`."""
        return self._pass().opened[id(gate)]

    def notes(self, gate: Gate) -> Mapping[str, Any]:
        """What it noted there; gates that share an evaluation share its notes."""
        return next(notes for noted, notes in self._pass().record.noted() if noted is gate)

    def tell(self, control: Control, row: int, at: int, what: str) -> None:
        """Write down what a control did after the latest pass: `row` of it, the caller's `at`."""
        position = int(self._pass().record.logical[row, -1])
        why = self.trace.reason(control.gate, row, position)
        self.trace.events.append(Event(control.label, at, position, what, why))

    def dialled(self, rows: Sequence[DialRow]) -> None:
        """Write down what dials stood at in a call that is over, one entry per row."""
        self.trace.dials.extend(rows)

    def close(self) -> None:
        """Take the gates' states off the caches."""
        for states in self._hung:
            states.drop(self._number)

    def _pass(self) -> _Pass:
        assert self._latest is not None
        return self._latest

    def _fused(
        self, site: Site, acts: list[Act], resid: Tensor, frame: Frame, now: _Pass
    ) -> Tensor | None:
        """The activation with all changes of its site; None where no edit acts."""
        covers: list[Cover] = []
        moves: list[tuple[Tensor, Tensor | None]] = []
        for act in acts:  # a comprehension would be one more function to fetch in each step
            covers.append(self._cover(act.edit, frame, now))
        if covers[0].empty and all(cover.empty for cover in covers):
            return None
        wide = resid.float()
        for act in acts:
            moves.append(act.move(wide, frame, now.readings, now.worked))
        if len(acts) == 1:
            cover, (total, known) = covers[0], moves[0]
            draft = Draft(site, resid, cover.mask, ((acts[0].index, None, total, known),), None)
            fixed = known is not None
        else:
            cover, total, draft = _together(site, resid, acts, covers, moves)
            fixed = all(known is not None for _, known in moves)
        if site not in now.record.edited:  # one recomputed for the backward pass counts once
            self._write(now.record, draft)
        if fixed and resid.dtype == torch.bfloat16:
            total = total.to(resid.dtype)  # as where the short way is taken
        return cover.put(narrow(wide + total, wide, resid.dtype), resid)

    def _write(self, record: PassRecord, draft: Draft) -> None:
        """Keep what was done at a site: as it is where that is little and stays, else its norms."""
        small = draft.resid.is_cpu and draft.resid.numel() <= FEW
        if small and not record.over and self._waits[draft.site] and not torch.is_grad_enabled():
            record.kept.append(draft)
        else:
            record.edited[draft.site] = draft.settled()

    def _cover(self, edit: Edit, frame: Frame, now: _Pass) -> Cover:
        where = edit.where
        cover = now.covers.get(id(where)) or now.cover(where, frame)
        if isinstance(edit.gate, Always):
            return cover
        return cover.gated(self._open(edit.gate, frame, now), frame)

    def _open(self, gate: Gate, frame: Frame, now: _Pass) -> Tensor:
        """Where a gate is open; asked once per pass, whoever needs it."""
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self._open(gate, frame, now)
        key = id(gate)
        if key not in now.opened:
            notes = frame.evidence = {}
            opened = gate.open(now.readings, frame, now.states.get(key))
            now.opened[key] = opened.to(frame.valid.device)
            now.record.evidence.append(Evidence(gate, notes, now.opened[key]))
        return now.opened[key]

    def _states(self, frame: Frame, cache: Any) -> dict[int, Any]:
        if not self._remember:
            return _NOTHING
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


def _together(
    site: Site,
    resid: Tensor,
    acts: Sequence[Act],
    covers: Sequence[Cover],
    moves: Sequence[tuple[Tensor, Tensor | None]],
) -> tuple[Cover, Tensor, Draft]:
    """Where any of several acts takes place, their changes added up, and each for itself."""
    masks = [cover.mask.to(resid.device) for cover in covers]
    pairs = zip(moves, masks, strict=True)
    held = [torch.where(mask[..., None], move, 0.0) for (move, _), mask in pairs]
    total, cover = torch.stack(held).sum(0), Cover(torch.stack(masks).any(0), full=False)
    each = zip(acts, covers, moves, strict=True)
    deeds = tuple((act.index, own.mask, *move) for act, own, move in each)
    return cover, total, Draft(site, resid, cover.mask, deeds, total)


def _steady(
    acts: Mapping[Site, Sequence[Act]], may_wait: Mapping[Site, bool]
) -> dict[Site, SteadySite]:
    """The sites where one vector is added; choices of positions that are equal are one object."""
    wheres: dict[Where, Where] = {}
    found: dict[Site, SteadySite] = {}
    for site, here in acts.items():
        if SteadySite.fits(here):
            where = here[0].edit.where
            where = wheres.setdefault(where, where)
            found[site] = SteadySite(site, here, where, waits=may_wait[site])
    return found
