"""The short way through a site at which a plan adds one vector, wherever it acts.

That is so where every act there adds a constant, without gate or schedule, and all share one
`where`: of the plan, so mostly the same at all sites. What is left for each site is one addition,
and one norm for the trace. The choice of positions is made once per pass, and where it takes in
every position, which is what decoding mostly is, nothing is masked either. Seeing that it does is
free on the CPU only; elsewhere the host would wait for the device, so there it is never asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor

from saesteer.models import Site
from saesteer.steer.acts import Act, narrow, norm
from saesteer.steer.frame import Frame
from saesteer.steer.records import PassRecord, SiteRecord
from saesteer.steer.where import Where


class Cover(NamedTuple):
    """Where a plan acts in one pass: `mask` `[batch, pos]`, and whether it is known to be full."""

    mask: Tensor
    full: bool

    @staticmethod
    def of(where: Where, frame: Frame) -> Cover:
        """The choice of `where` in a pass."""
        mask = where.mask(frame)
        return Cover(mask, mask.device.type == "cpu" and bool(mask.all()))


class _Sum(NamedTuple):
    """On one device: what is added in all, its norm, and each edit's number and own norm."""

    vector: Tensor
    norm: Tensor
    deeds: tuple[tuple[int, None, Tensor], ...]


@final
class SteadySite:
    """The acts of one site, added up once per device."""

    def __init__(self, site: Site, acts: Sequence[Act], where: Where) -> None:
        self.site, self.where = site, where
        self._acts = tuple(acts)
        self._sums: dict[torch.device, _Sum] = {}

    @staticmethod
    def fits(acts: Sequence[Act]) -> bool:
        """Whether these acts of one site can go this way."""
        where = acts[0].edit.where
        return all(act.is_steady and act.edit.where == where for act in acts)

    def steer(self, resid: Tensor, cover: Cover, record: PassRecord) -> Tensor:
        """The activation with the vector added; positions outside the cover stay bit for bit."""
        here = self._sums.get(resid.device) or self._place(resid.device)
        wide = resid.float()
        if self.site not in record.sites:
            record.sites[self.site] = SiteRecord(norm(wide), cover.mask, here.norm, here.deeds)
        new = narrow(wide + here.vector, wide, resid.dtype)
        if cover.full:
            return new
        return torch.where(cover.mask.to(resid.device)[..., None], new, resid)

    def _place(self, device: torch.device) -> _Sum:
        vectors, deeds = [], []
        for act in self._acts:
            _, constant, size = act.on(device)
            assert constant is not None
            assert size is not None
            vectors.append(constant)
            deeds.append((act.index, None, size))
        vector = vectors[0] if len(vectors) == 1 else torch.stack(vectors).sum(0)
        self._sums[device] = _Sum(vector, norm(vector), tuple(deeds))
        return self._sums[device]
