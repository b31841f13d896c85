"""What a trace keeps of one forward pass, in as few objects as will do.

A decoding step leaves one record, and one small tuple for each site that was edited; the values
that are read are made from these when somebody asks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

from torch import Tensor

from saesteer.models.sites import Site
from saesteer.steer.frame import Frame
from saesteer.steer.gate import Gate


@final
@dataclass(frozen=True, eq=False)
class Deed:
    """One edit in one pass: where it acted, and ‖Δh‖ there (elsewhere anything), `[batch, pos]`."""

    edit: int
    site: Site
    mask: Tensor
    norm: Tensor


class SiteRecord(NamedTuple):
    """One edited site in one pass.

    Attributes:
        norm: ‖h‖, `[batch, pos]`.
        mask: where at least one edit acted, `[batch, pos]`.
        size: ‖Δh‖ of all edits together, `[batch, pos]`, or `[]` where it is the same everywhere.
        deeds: each edit's number, its own mask (None: `mask`) and its own ‖Δh‖, shaped as `size`.
    """

    norm: Tensor
    mask: Tensor
    size: Tensor
    deeds: tuple[tuple[int, Tensor | None, Tensor], ...]


@final
@dataclass(frozen=True, eq=False)
class Evidence:
    """What one gate noted in one pass, and where it was open, `[batch, pos]`."""

    gate: Gate
    notes: dict[str, Any]
    open: Tensor


@final
@dataclass(eq=False)
class PassRecord:
    """One forward pass: its positions, what was done at each site, and what gates noted."""

    input_ids: Tensor | None
    live: Tensor
    logical: Tensor
    start: int
    prompt_lengths: Tensor | None
    sites: dict[Site, SiteRecord] = field(default_factory=dict)
    evidence: list[Evidence] = field(default_factory=list)

    @staticmethod
    def of(frame: Frame) -> PassRecord:
        """An empty record of a pass."""
        lengths = frame.prompt_lengths
        return PassRecord(frame.input_ids, frame.live, frame.logical, frame.start, lengths)

    @property
    def norms(self) -> dict[Site, Tensor]:
        """‖h‖ at each edited site, `[batch, pos]`."""
        return {site: record.norm for site, record in self.sites.items()}

    @property
    def moved(self) -> dict[Site, Tensor]:
        """The fused ‖Δh‖ at each edited site, `[batch, pos]`; it means something where touched."""
        return {site: record.size.expand(record.mask.shape) for site, record in self.sites.items()}

    @property
    def touched(self) -> dict[Site, Tensor]:
        """Where at least one edit acted at each site, `[batch, pos]`."""
        return {site: record.mask.to(record.norm.device) for site, record in self.sites.items()}

    @property
    def deeds(self) -> list[Deed]:
        """What each edit did, site by site."""
        found: list[Deed] = []
        for site, record in self.sites.items():
            whole = record.mask.to(record.norm.device)
            for edit, mask, size in record.deeds:
                mask = whole if mask is None else mask
                found.append(Deed(edit, site, mask, size.expand(whole.shape)))
        return found
