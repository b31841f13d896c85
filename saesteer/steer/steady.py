"""The short way through a site at which a plan adds one vector, wherever it acts.

That is so where every act there adds a constant, without gate or schedule, and all share one
`where`: of the plan, so mostly the same at all sites. What is left for each site is one addition,
and one norm for the trace. The choice of positions is made once per pass, and where it takes in
every position, which is what decoding mostly is, nothing is masked either. Seeing that it does is
free on the CPU only; elsewhere the host would wait for the device, so there it is never asked.

Norms of small activations are taken together when the pass is over. A module's output that a hook
has replaced is nobody's any more, so it can wait unchanged; an input is still its caller's, who may
write into it, so there the norm is taken at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor

from saesteer.models import Site
from saesteer.steer.acts import Act, narrow
from saesteer.steer.frame import Frame
from saesteer.steer.records import Added, PassRecord, norm
from saesteer.steer.where import Where

FEW = 2**16
"""Numbers in an activation up to which it may be kept until the pass is over."""


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


@final
class SteadySite:
    """The acts of one site, added up once per device.

    Args:
        waits: whether an activation stays as it is after the hook, until the pass is over.
    """

    def __init__(self, site: Site, acts: Sequence[Act], where: Where, *, waits: bool) -> None:
        self.site, self.where, self.waits = site, where, waits
        self._acts = tuple(acts)
        self._sums: dict[torch.device, Added] = {}

    @staticmethod
    def fits(acts: Sequence[Act]) -> bool:
        """Whether these acts of one site can go this way."""
        where = acts[0].edit.where
        return all(act.is_steady and act.edit.where == where for act in acts)

    def steer(self, resid: Tensor, cover: Cover, record: PassRecord) -> Tensor:
        """The activation with the vector added; positions outside the cover stay bit for bit."""
        added = self._sums.get(resid.device) or self._place(resid.device)
        kept = record.kept
        if kept is not None:
            wait = self.waits and resid.numel() <= FEW
            if wait:
                kept.append(resid.detach() if resid.requires_grad else resid)
            record.added.append((added, cover.mask, None if wait else norm(resid)))
        if resid.dtype == torch.float32:
            new = resid + added.vector
        else:
            wide = resid.float()
            new = narrow(wide + added.vector, wide, resid.dtype)
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
