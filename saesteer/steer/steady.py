"""The short way through a site at which a plan adds one vector, wherever it acts.

That is so where every act there adds a constant, without gate or schedule, and all share one
`where`: of the plan, so mostly the same at all sites. What is left for each site is one addition,
and one norm for the trace. The choice of positions is made once per pass, and where it takes in
every position, which is what decoding mostly is, nothing is masked either. Seeing that it does is
free on the CPU only; elsewhere the host would wait for the device, so there it is never asked.

Norms of small activations are put off and taken many at a time. A module's output that a hook has
replaced is nobody's any more, so it can wait unchanged; an input is still its caller's, who may
write into it, so there the norm is taken at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, final

import torch
from torch import Tensor

from saesteer.models import Site
from saesteer.steer.acts import Act, narrow
from saesteer.steer.frame import Frame
from saesteer.steer.late_norms import norm
from saesteer.steer.records import Added, PassRecord
from saesteer.steer.where import Where

FEW = 2**16
"""Numbers in an activation up to which it may wait."""


class Cover(NamedTuple):
    """Where a plan acts in one pass: `mask` `[batch, pos]`, and whether it is known to be full."""

    mask: Tensor
    full: bool

    @staticmethod
    def of(where: Where, frame: Frame) -> Cover:
        """The choice of `where` in a pass."""
        mask = where.mask(frame)
        if mask is frame.valid and frame.whole:
            return Cover(mask, full=True)
        return Cover(mask, full=mask.device.type == "cpu" and bool(mask.all()))


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
        waits: whether an activation stays as it is after the hook.
    """

    def __init__(self, site: Site, acts: Sequence[Act], where: Where, *, waits: bool) -> None:
        self.site, self.where, self.waits = site, where, waits
        self._key = id(where)
        self._acts = tuple(acts)
        self._sums: dict[torch.device, Added] = {}

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
        added = self._sums.get(resid.device) or self._place(resid.device)
        cover = now.covers.get(self._key) or now.cover(self.where, frame)
        record = now.record
        if not record.over:
            plain = resid.detach() if resid.requires_grad else resid
            if self.waits and plain.numel() <= FEW:
                record.waiting.append((added, plain, cover.mask))
            else:
                record.added.append((added, norm(plain), cover.mask))
        new = resid + added.vector  # in fp32, whatever the activation is in
        if new.dtype != resid.dtype:
            new = narrow(new, resid, resid.dtype)
        if cover.full:
            return new
        return torch.where(cover.mask.to(resid.device)[..., None], new, resid)

    def _place(self, device: torch.device) -> Added:
        vectors, deeds = [], []
        for act in self._acts:
            _, constant, size = act.on(device)
            assert constant is not None
            assert size is not None
            vectors.append(constant)
            deeds.append((act.index, None, size))
        vector = vectors[0] if len(vectors) == 1 else torch.stack(vectors).sum(0)
        self._sums[device] = Added(self.site, vector, norm(vector), tuple(deeds))
        return self._sums[device]
