"""The short way through a site at which a plan adds one vector, wherever it acts.

That is so where every act there adds a constant, without gate or schedule, and all share one
`where`: of the plan, so mostly the same at all sites. What is left for each site is one addition,
and one norm for the trace. The choice of positions is made once per pass, and where it takes in
every position, which is what decoding mostly is, nothing is masked either. Seeing that it does is
free on the CPU only; elsewhere the host would wait for the device, so there it is never asked. In a
bfloat16 model the vector is rounded when it is placed, so that the addition is one operation.

Norms of small activations are put off and taken many at a time. A module's output that a hook has
replaced is nobody's any more, so it can wait unchanged; an input is still its caller's, who may
write into it, so there the norm is taken at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import get_ident
from typing import NamedTuple, Protocol, final

import torch
from torch import Tensor

from saesteer.models import Model, Site
from saesteer.steer.acts import Act, narrow
from saesteer.steer.frame import Frame
from saesteer.steer.records import PassRecord
from saesteer.steer.site_records import Added, Waiting, norm
from saesteer.steer.where import Where

FEW = 2**14
"""Numbers in an activation up to which it may wait."""


class Cover(NamedTuple):
    """Where a plan acts in one pass: `mask` `[batch, pos]`, and whether it is known to be full.

    `empty` says that it is known to be nowhere.
    """

    mask: Tensor
    full: bool
    empty: bool = False

    @staticmethod
    def of(where: Where, frame: Frame) -> Cover:
        """The choice of `where` in a pass."""
        if where.takes_answers and frame.plain_answer:
            return Cover(frame.places.valid, True)
        mask = where.mask(frame)
        if mask is frame.valid and frame.whole:
            return Cover(mask, full=True)
        return Cover(mask, full=mask.device.type == "cpu" and bool(mask.all()))

    def gated(self, opened: Tensor, frame: Frame) -> Cover:
        """What is left of it where a gate is open, `[batch, pos]`."""
        places = frame.places
        if opened is places.none:
            return Cover(opened, full=False, empty=True)
        if self.full:
            everywhere = opened is places.valid and places.whole
            return self if everywhere else Cover(opened, full=False)
        return Cover(self.mask & opened, full=False)

    def put(self, new: Tensor, old: Tensor) -> Tensor:
        """`new` inside and `old` outside, bit for bit."""
        return new if self.full else torch.where(self.mask.to(old.device)[..., None], new, old)


def waits(model: Model, site: Site) -> bool:
    """Whether a site's activation stays as it is once a hook has replaced it."""
    return model.layout.point(site).is_output


@final
class Answers:
    """The pass of an answer that is under way, for the sites of a plan that then add one vector.

    Passes of other threads than the first go the longer way.

    Attributes:
        n_sites, width: how many sites there are, all of them so wide.
        now: where activations go, site by site, and the list that says which have; None in any
            other pass.
        thread: whose pass it is.
    """

    __slots__ = ("n_sites", "now", "thread", "width")

    def __init__(self) -> None:
        self.n_sites = self.width = self.thread = 0
        self.now: tuple[list[Tensor], list[tuple[int, Added]]] | None = None

    def tell(self, frame: Frame, record: PassRecord) -> None:
        """A pass begins."""
        if not self.n_sites or (self.thread and self.thread != get_ident()):
            return
        self.thread, self.now = get_ident(), None
        few = frame.plain_answer and frame.places.shape[0] * self.width <= FEW
        if few and frame.places.shape[1] == 1 and not torch.is_grad_enabled():
            self.now = record.late.shelve(record, self.n_sites, self.width), record.shelved


class Pass(Protocol):
    """What a site needs of its plan's notes on a pass."""

    record: PassRecord
    covers: dict[int, Cover]

    def cover(self, where: Where, frame: Frame) -> Cover:
        """Where a choice of positions takes in the pass; asked once of each."""
        ...


@final
class SteadySite:
    """The acts of one site, added up once per device.

    Args:
        waits: whether an activation stays as it is after the hook; see `waits`.

    Attributes:
        added: what is added on the CPU to activations of `dtype`, which need no rounding after it.
        answers, place: where it goes by the pass alone, that pass, and the site's place in it.
    """

    __slots__ = (
        *("_acts", "_key", "_sums", "added", "answers", "dtype", "place", "site", "waits", "where"),
    )

    def __init__(self, site: Site, acts: Sequence[Act], where: Where, *, waits: bool) -> None:
        self.site, self.where, self.waits = site, where, waits
        self.answers, self.place = Answers(), 0
        self._key = id(where)
        self._acts = tuple(acts)
        self._sums: dict[tuple[torch.device, torch.dtype], Added] = {}
        self.dtype: torch.dtype | None = None
        self.added: Added | None = None

    def join(self, answers: Answers, width: int) -> None:
        """Go by the pass alone in answers, where that is the same."""
        alike = answers.n_sites == 0 or width == answers.width
        if self.waits and self.where.takes_answers and alike:
            self.answers, self.place = answers, answers.n_sites
            answers.n_sites, answers.width = answers.n_sites + 1, width

    @staticmethod
    def fits(acts: Sequence[Act]) -> bool:
        """Whether these acts of one site can go this way."""
        where = acts[0].edit.where
        return all(act.is_steady and act.edit.where == where for act in acts)

    def visit(self, owner: object, resid: Tensor, frame: Frame) -> Tensor | None:
        """The activation with the vector added; positions outside the cover stay bit for bit.

        It runs at every site of every step, with nothing of it left in the processor's caches, so
        each call in it costs ten times what it seems to.

        Args:
            owner: whose notes on the pass these are; nothing is done where it has none, as it was
                attached while this pass was under way.
        """
        now: Pass | None = frame.memo.get(owner)
        if now is None:
            return None
        dtype = resid.dtype
        added = self.added
        if dtype is not self.dtype or added is None or not resid.is_cpu:
            added = self._place(resid.device, dtype)
        cover = now.covers.get(self._key) or now.cover(self.where, frame)
        record = now.record
        if not record.over:
            plain = resid.detach() if resid.requires_grad else resid
            if self.waits and plain.numel() <= FEW:
                record.kept.append(Waiting(added, plain, cover.mask))
            else:
                record.added.append((added, norm(plain), cover.mask))
        new = resid + added.vector
        if new.dtype is not dtype:
            new = narrow(new, resid, dtype)
        return new if cover.full else cover.put(new, resid)

    def _place(self, device: torch.device, dtype: torch.dtype) -> Added:
        added = self._sums.get((device, dtype))
        if added is None:
            added = self._sums[device, dtype] = self._added(device, dtype)
        if device.type == "cpu" and added.vector.dtype is dtype:
            self.dtype, self.added = dtype, added
        return added

    def _added(self, device: torch.device, dtype: torch.dtype) -> Added:
        """The sum in fp32, which only a bfloat16 activation is spared: it can't overflow there."""
        vectors, deeds = [], []
        for act in self._acts:
            _, constant, size = act.on(device)
            assert constant is not None
            assert size is not None
            vectors.append(constant)
            deeds.append((act.index, None, size))
        vector = vectors[0] if len(vectors) == 1 else torch.stack(vectors).sum(0)
        cast = vector.to(dtype) if dtype == torch.bfloat16 else vector
        return Added(self.site, cast, norm(vector), tuple(deeds))
