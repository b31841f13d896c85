"""What hooks write down in one pass, and what a control did: the entries of a trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, final

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


@final
@dataclass(frozen=True, eq=False)
class Evidence:
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
@dataclass(eq=False)
class PassRecord:
    """One forward pass. `norms` and `moved` are ‖h‖ and the fused ‖Δh‖ by site, `[batch, pos]`.

    ‖Δh‖ means something where `touched` only.
    """

    input_ids: Tensor | None
    live: Tensor
    logical: Tensor
    start: int
    prompt_lengths: Tensor | None
    norms: dict[Site, Tensor] = field(default_factory=dict)
    moved: dict[Site, Tensor] = field(default_factory=dict)
    touched: dict[Site, Tensor] = field(default_factory=dict)
    deeds: list[Deed] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)

    @staticmethod
    def of(frame: Frame) -> PassRecord:
        """An empty record of a pass."""
        lengths = frame.prompt_lengths
        return PassRecord(frame.input_ids, frame.live, frame.logical, frame.start, lengths)

    def noted(self) -> Iterator[tuple[Gate, dict[str, Any]]]:
        """Each gate with the notes it goes by; gates that share an evaluation share its notes."""
        shared = {kind: note for seen in self.evidence for kind, note in seen.notes.items()}
        return ((seen.gate, seen.notes or shared) for seen in self.evidence)
