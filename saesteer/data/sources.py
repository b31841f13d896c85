"""Where activations come from: a model that runs no further than it must.

A source hands out chunks in a fixed order and knows its place in it; restored, it goes on with the
same chunks, bit for bit on one machine. Activations of several sites lie side by side in one row,
so that whatever learns from them sees the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saesteer.axes import Rows
from saesteer.data.tokens import TokenRows, TokenStream
from saesteer.errors import DataError
from saesteer.metrics.outliers import outlier_tokens
from saesteer.models import Model, Site, installed
from saesteer.models.hooks import run_as
from saesteer.models.limits import finite_rows


class Chunk(NamedTuple):
    """Activations `[n, width]` of some tokens, and how many tokens were read and left out."""

    rows: Tensor
    n_read: int
    n_outliers: int


@runtime_checkable
class Source(Protocol):
    """An ordered supply of activations that resumes exactly."""

    def next_chunk(self) -> Chunk | None:
        """The next activations; None at the end."""
        ...

    def state(self) -> dict[str, Any]:
        """The place behind the last chunk handed out, as JSON."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken from a source with the same settings."""
        ...


@runtime_checkable
class Skippable(Source, Protocol):
    """A source that can pass over a chunk for less than it costs to make one."""

    def skip(self) -> bool:
        """Go behind the next chunk; False at the end."""
        ...


@dataclass(frozen=True)
class Columns:
    """Which columns of a row belong to which site; if rows are told apart, by the last one."""

    sites: tuple[Site, ...]
    widths: tuple[int, ...]
    told: bool = False

    @classmethod
    def of(cls, model: Model, sites: Sequence[Site], *, told: bool = False) -> Columns:
        """Sites in the order in which a pass reaches them, each once."""
        ordered = sorted(set(sites), key=lambda site: (site.order, site.head or 0))
        return cls(tuple(ordered), tuple(model.layout.width(site) for site in ordered), told)

    @property
    def width(self) -> int:
        """Columns in all."""
        return sum(self.widths) + self.told

    def widths_of(self, sites: Sequence[Site]) -> list[int]:
        """How many columns each of some sites has."""
        return [self.widths[self.sites.index(site)] for site in sites]

    def pick(self, rows: Float[Tensor, "n width"], sites: Sequence[Site]) -> Rows:
        """The columns of some sites side by side, then what rows are told apart by; a view where
        one part is all."""
        starts = [sum(self.widths[: self.sites.index(site)]) for site in sites]
        widths = self.widths_of(sites)
        parts = [rows[:, start : start + n] for start, n in zip(starts, widths, strict=True)]
        if self.told:
            parts.append(rows[:, -1:])
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class _Reached(Exception):
    """Ends the forward pass at the last site; never leaves this file."""


@final
@dataclass(eq=False)
class ModelSource:
    """Activations of packed text, outliers and special tokens left out.

    A token is left out of all sites where it is an outlier at any, so that rows stay aligned.

    Attributes:
        rows_per_pass: packed rows in one forward pass.
        compiled: blocks without a site inside, which run compiled in these passes and in no others:
            compiled code ignores hooks. Those on a block itself are called around it.
    """

    model: Model
    columns: Columns
    tokens: TokenStream
    rows_per_pass: int = 8
    compiled: Sequence[nn.Module] = ()

    def __post_init__(self) -> None:
        self._calls = [torch.compile(block.forward, dynamic=False) for block in self.compiled]

    def next_chunk(self) -> Chunk | None:
        """Activations of the next packed rows; None when the text has ended.

        Raises:
            DataError: the model gives NaN or infinity on this text.
        """
        rows = self.tokens.next_rows(self.rows_per_pass)
        return None if rows is None else self.activations(rows)

    def skip(self) -> bool:
        """Go behind the next packed rows without running the model; False at the end."""
        return self.tokens.next_rows(self.rows_per_pass) is not None

    def state(self) -> dict[str, Any]:
        """The place in the text."""
        return json.loads(json.dumps(self.tokens.state()))

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a place in the text."""
        self.tokens.restore(state)

    def activations(self, rows: TokenRows) -> Chunk:
        """Activations of packed rows.

        Raises:
            DataError: the model gives NaN or infinity on this text.
        """
        parts, keep, n_outliers = self.read(rows)
        return Chunk(self.kept(rows, parts, keep), keep.numel(), n_outliers)

    def kept(
        self, rows: TokenRows, parts: Sequence[Tensor], keep: Bool[Tensor, "rows context"]
    ) -> Float[Tensor, "n width"]:
        """The tokens of `read` that count, a row each: sites side by side, then what tells rows
        apart."""
        if self.columns.told:
            assert rows.labels is not None, "a column of labels needs tokens with labels"
            parts = [*parts, rows.labels[..., None].to(parts[0])]
        return parts[0][keep] if len(parts) == 1 else torch.cat([p[keep] for p in parts], -1)

    @torch.no_grad()
    def read(self, rows: TokenRows) -> tuple[list[Tensor], Bool[Tensor, "rows context"], int]:
        """Each site's activations `[rows, context, width]`, which tokens count, and how many are
        left out as outliers.

        Raises:
            DataError: the model gives NaN or infinity on this text.
        """
        special = torch.isin(rows.input_ids, self.model.special_ids).to(self.model.device)
        outlier = torch.zeros_like(special)
        parts = []
        for site, resid in zip(self.columns.sites, self._record(rows), strict=True):
            outlier |= outlier_tokens(finite_rows(resid, self.model, site), ~special)
            parts.append(resid)
        return parts, ~(special | outlier), int(outlier.sum())

    def _record(self, rows: TokenRows) -> list[Tensor]:
        """Activations at every site, `[rows, context, width]`, of a pass that ends at the last."""
        seen: list[Tensor] = []

        def reach(resid: Tensor) -> None:
            seen.append(resid)
            if len(seen) == len(self.columns.sites):
                raise _Reached

        hooks = [(self.model.layout.point(site), reach) for site in self.columns.sites]
        with suppress(_Reached), installed(hooks), run_as(self.compiled, self._calls):
            self.model.layout.base(
                input_ids=rows.input_ids.to(self.model.device),
                position_ids=rows.position_ids.to(self.model.device),
                use_cache=False,
            )
        return seen


def first_rows(
    source: Source, n: int, progress: Callable[[int, int], None] | None = None
) -> Float[Tensor, "n width"]:
    """The first `n` activations of a source, fewer where it ends before.

    Args:
        progress: called with rows there and rows wanted.

    Raises:
        DataError: it has none.
    """
    parts, there = [], 0
    while there < n and (chunk := source.next_chunk()) is not None:
        parts.append(chunk.rows)
        there += len(chunk.rows)
        if progress is not None:
            progress(min(there, n), n)
    if not there:
        raise DataError("the text has no tokens that count.")
    return torch.cat(parts)[:n]
