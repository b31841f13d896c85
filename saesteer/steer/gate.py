"""Gates decide whether an edit acts at a position; what they remember is kept by column, not row.

Decoding rolls back (assisted decoding), swaps rows (beams) and copies caches (shared prefixes), so
a flag per row goes wrong. A gate that remembers writes what it saw into a `ColumnHistory`, reads
only columns up to the position it decides about, and is then the same cached and uncached: a
rolled-back column is overwritten by the next pass before anybody reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from saesteer.axes import TokenMask
from saesteer.errors import PlanError
from saesteer.models.sites import Site
from saesteer.steer.frame import Frame


@runtime_checkable
class Gate(Protocol):
    """When an edit acts. A gate shared by several edits is evaluated once per forward pass.

    `sites` are read before the plan's own edits there. An edit at a site that the pass reaches
    before one of them is refused (`PlanError`) when the plan is attached.
    """

    @property
    def sites(self) -> tuple[Site, ...]:
        """What it reads."""
        ...

    def new_state(self) -> object:
        """What the gate remembers of one text; fresh whenever a pass starts at column 0.

        A state with a method `select_rows` follows the cache when rows are reordered.
        """
        ...

    def open(self, readings: Mapping[Site, Tensor], frame: Frame, state: Any, /) -> TokenMask:
        """True where edits may act, `[batch, pos]`; position t may depend on columns <= t only.

        Args:
            readings: `[batch, pos, width]` for each of `sites`, in the model's dtype.
            frame: the pass; `frame.note(kind, tensor)` leaves evidence for the trace.
            state: what `new_state` returned, for the text that this pass continues.
        """
        ...


@runtime_checkable
class Explains(Protocol):
    """A gate that can put its evidence into words."""

    def explain(self, evidence: Mapping[str, Any], row: int, index: int) -> str:
        """Why the gate was open or shut at `[row, index]` of one pass's evidence tensors."""
        ...


SINCE = "since"
"""Among the evidence of a gate that is held open: which token opened it, and why."""


@runtime_checkable
class Holds(Protocol):
    """A gate that stays open behind a token that opens `gate`; None: for the rest of the text."""

    @property
    def gate(self) -> Gate:
        """What opens it."""
        ...

    @property
    def duration(self) -> int | None:
        """For how many tokens, the one that opens it included."""
        ...

    def opens(self, evidence: Mapping[str, Any], row: int, index: int) -> bool:
        """Whether `gate` was open at `[row, index]` of one pass's evidence tensors."""
        ...


@runtime_checkable
class Proves(Protocol):
    """A gate whose reasons are values: trees that print and become JSON, and near misses."""

    def proof(self, evidence: Mapping[str, Any], row: int, index: int) -> Any:
        """The tree of why the gate was open or shut there; `as_dict` makes it JSON."""
        ...

    def why_not(self, evidence: Mapping[str, Any], row: int, index: int, atom: str) -> Any:
        """What an atom of the gate's rules misses there; None if it holds."""
        ...


@runtime_checkable
class FollowsRows(Protocol):
    """State that must be permuted whenever the cache's rows are (beams, expansion, selection)."""

    def select_rows(self, rows: Tensor) -> None:
        """Keep these rows, in this order, `[new batch]`; a row may occur several times."""
        ...


@final
@dataclass(frozen=True)
class Always:
    """The gate that is always open; an edit without a gate has this one."""

    sites: tuple[Site, ...] = ()

    def new_state(self) -> object:
        """Nothing to remember."""
        return None

    def open(self, _readings: Mapping[Site, Tensor], frame: Frame, _state: Any) -> TokenMask:
        """True everywhere."""
        return torch.ones_like(frame.valid)


@final
class ColumnHistory:
    """Values `[batch, columns, n]` of one text, by physical column of the cache.

    Columns that no pass has written hold `fill` (a prefix cached before the plan was attached).
    """

    def __init__(self, fill: float | bool = 0.0) -> None:
        self._fill = fill
        self._values: Tensor | None = None

    def write(self, frame: Frame, values: Tensor) -> None:
        """Store this pass's `[batch, pos, n]` at its columns.

        Raises:
            PlanError: another number of rows than the text had so far.
        """
        self._make_room(frame.n_columns, values)
        assert self._values is not None
        self._values[:, frame.start : frame.n_columns] = values.detach()

    def so_far(self, frame: Frame) -> Tensor:
        """Everything up to the end of this pass, `[batch, n_columns, n]`."""
        if self._values is None:
            raise PlanError("a gate read its history before writing to it; call write first.")
        return self._values[:, : frame.n_columns]

    def before(self, frame: Frame, like: Tensor) -> Tensor:
        """What stood in the column before this pass, `[batch, 1, n]`; `fill` if none was written.

        Args:
            like: this pass's values, for their shape and dtype.

        Raises:
            PlanError: another number of rows than the text had so far.
        """
        self._make_room(frame.n_columns, like)
        assert self._values is not None
        if frame.start == 0:
            return torch.full_like(like[:, :1], self._fill)
        return self._values[:, frame.start - 1 : frame.start]

    def select_rows(self, rows: Tensor) -> None:
        """Follow the cache: keep these rows in this order."""
        if self._values is not None:
            self._values = self._values[rows.to(self._values.device)]

    def _make_room(self, n_columns: int, values: Tensor) -> None:
        held = 0 if self._values is None else self._values.shape[1]
        if self._values is not None and self._values.shape[0] != values.shape[0]:
            raise PlanError(
                f"a pass with {values.shape[0]} rows continues a text of {self._values.shape[0]}; "
                "expand the cache with its own batch_repeat_interleave or batch_select_indices."
            )
        if held >= n_columns:
            return
        shape = (values.shape[0], max(2 * held, n_columns) - held, values.shape[2])
        room = values.new_full(shape, self._fill)
        self._values = room if self._values is None else torch.cat([self._values, room], dim=1)


def holding(gate: Gate) -> Holds | None:
    """The gate itself or what it wraps, if it is one that is held open."""
    inner = getattr(gate, "gate", None)
    return gate if isinstance(gate, Holds) else None if inner is None else holding(inner)


def proving(gate: Gate) -> Proves | None:
    """The gate itself or what it wraps, if its reasons are values."""
    inner = getattr(gate, "gate", None)
    return gate if isinstance(gate, Proves) else None if inner is None else proving(inner)
