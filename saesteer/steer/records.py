"""What a trace keeps of one forward pass, in as few objects as will do.

A decoding step leaves one record, and one small tuple for each site that was edited; the values
that are read are made from these when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, final

from torch import Tensor

from saesteer.models.sites import Site
from saesteer.steer.frame import Frame
from saesteer.steer.gate import Gate
from saesteer.steer.late_norms import LateNorms, settle
from saesteer.steer.positions import Places
from saesteer.steer.site_records import Added, Draft, SiteRecord, Waiting


@final
@dataclass(frozen=True, eq=False)
class Deed:
    """One edit in one pass: where it acted, and ‖Δh‖ there (elsewhere anything), `[batch, pos]`."""

    edit: int
    site: Site
    mask: Tensor
    norm: Tensor


class Evidence(NamedTuple):
    """What one gate noted in one pass, and where it was open, `[batch, pos]`."""

    gate: Gate
    notes: dict[str, Any]
    open: Tensor


@final
@dataclass(frozen=True)
class Event:
    """What a control did: in which of the caller's rows, after which token, and why.

    `position` counts the row's real tokens from 0, prompt included.
    """

    control: str
    row: int
    position: int
    what: str
    why: str = ""

    def __str__(self) -> str:
        """`stop: stopped (score 0.31)`."""
        return f"{self.control}: {self.what}" + (f" ({self.why})" if self.why else "")


@final
@dataclass(eq=False, init=False, slots=True)
class PassRecord:
    """One forward pass: its positions, what was done at each site, and what gates noted.

    Attributes:
        live: real tokens of rows that are still going, `[batch, pos]`.
        late: the passes whose norms wait.
        edited: sites with edits that depend on something.
        added: sites where one vector is added, with ‖h‖ and the mask.
        kept: sites of both kinds with h itself, whose norm is still to be taken.
        shelved: sites where one vector is added, by their places on the shelf where h lies.
        over: whether the pass is; a block that the backward pass runs again adds nothing.
        evidence: what gates noted.
    """

    input_ids: Tensor | None
    live: Tensor
    places: Places
    start: int
    prompt_lengths: Tensor | None
    late: LateNorms
    edited: dict[Site, SiteRecord]
    added: list[tuple[Added, Tensor, Tensor]]
    kept: list[Waiting | Draft]
    shelved: list[tuple[int, Added]]
    over: bool
    evidence: list[Evidence]

    def __init__(self, frame: Frame, late: LateNorms) -> None:
        """Start with nothing done in the pass."""
        self.input_ids, self.live = frame.input_ids, frame.live
        self.places, self.start = frame.places, frame.start
        self.prompt_lengths, self.late = frame.prompt_lengths, late
        self.edited, self.over = {}, False
        self.added, self.kept, self.shelved, self.evidence = [], [], [], []

    @property
    def logical(self) -> Tensor:
        """Index of each position among its row's real tokens, `[batch, pos]`."""
        return self.places.logical

    def noted(self) -> Iterator[tuple[Gate, dict[str, Any]]]:
        """Each gate with the notes it goes by; gates that share an evaluation share its notes."""
        shared = {kind: note for seen in self.evidence for kind, note in seen.notes.items()}
        return ((seen.gate, shared | seen.notes) for seen in self.evidence)

    @property
    def _unsettled(self) -> bool:
        """Whether there are norms still to be taken."""
        return bool(self.kept or self.shelved)

    def close(self) -> None:
        """The pass is over."""
        self.over = True
        if self.kept:
            self.late.add(self)

    @property
    def sites(self) -> dict[Site, SiteRecord]:
        """What was done at each edited site, in the order in which a pass reaches them."""
        if self._unsettled:
            self.late.settle()
        if self._unsettled:  # the pass is under way
            settle([self])
        found = dict(self.edited)
        for added, known, mask in self.added:
            record = SiteRecord(known, mask.to(known.device), added.norm, added.deeds)
            found.setdefault(added.site, record)  # one recomputed for the backward pass counts once
        return dict(sorted(found.items(), key=lambda entry: (entry[0].order, str(entry[0]))))

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
        return {site: record.mask for site, record in self.sites.items()}

    @property
    def deeds(self) -> list[Deed]:
        """What each edit did, site by site."""
        found: list[Deed] = []
        for site, record in self.sites.items():
            for edit, mask, size in record.deeds:
                own = record.mask if mask is None else mask
                found.append(Deed(edit, site, own, size.expand(own.shape)))
        return found
