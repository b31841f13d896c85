"""Scores aggregated over the prompt, causally: what a prompt-level concept is worth at position t.

Running aggregates are kept for every physical column, so a pass starts from the column before it.
That makes chunked prefill, a rolled-back cache and the whole text at once agree, without looking
at the text again; a column that is computed anew is simply overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saesteer.axes import TokenIds
from saesteer.features.concepts import Over
from saesteer.steer.frame import Frame
from saesteer.steer.gate import ColumnHistory
from saesteer.steer.positions import Places


class Scored(NamedTuple):
    """Scores, and which token each rests on: its logical position and its id (-1: unknown)."""

    scores: Float[Tensor, "batch pos n"]
    position: Int[Tensor, "batch pos n"]
    token: Int[Tensor, "batch pos n"]

    def columns(self, which: Int[Tensor, " k"]) -> Scored:
        """Those of some concepts."""
        return Scored(*(values[..., which] for values in self))

    def put(self, which: Int[Tensor, " k"], new: Scored) -> Scored:
        """These, with some concepts' replaced."""
        pairs = zip(self, new, strict=True)
        return Scored(*(values.index_copy(-1, which, n.to(values.dtype)) for values, n in pairs))


class Totals(NamedTuple):
    """What the columns so far add up to: running score, its token, and the sums behind a mean."""

    scored: Scored
    sums: Float[Tensor, "batch pos n"]
    counts: Float[Tensor, "batch pos n"]


class OwnScores(NamedTuple):
    """Scores that rest on their own token, whose position and id are told when somebody asks."""

    scores: Float[Tensor, "batch pos n"]
    places: Places
    input_ids: TokenIds | None

    @property
    def position(self) -> Int[Tensor, "batch pos n"]:
        """As `Scored` has it."""
        return self.places.logical.long()[..., None].expand(self.scores.shape)

    @property
    def token(self) -> Int[Tensor, "batch pos n"]:
        """As `Scored` has it."""
        ids, places = self.input_ids, self.places
        ids = torch.full_like(places.logical, -1) if ids is None else ids
        return ids.long()[..., None].expand(self.scores.shape)

    def told(self) -> Scored:
        """With both worked out."""
        return Scored(self.scores, self.position, self.token)


@final
class PromptState:
    """The running aggregates of one text; `select_rows` follows the cache."""

    def __init__(self) -> None:
        """Start with no column seen."""
        self._floats = ColumnHistory(fill=0.0)
        self._scores = ColumnHistory(fill=float("-inf"))
        self._places = ColumnHistory(fill=-1.0)

    def before(self, frame: Frame, like: Float[Tensor, "batch pos n"]) -> Totals:
        """The aggregates at the column before this pass, `[batch, 1, n]`; makes room for it."""
        self.write(frame, _empty(like))
        if frame.start == 0:
            return _empty(like[:, :1])
        at = slice(frame.start - 1, frame.start)
        sums, counts = self._floats.so_far(frame)[:, at].chunk(2, -1)
        position, token = self._places.so_far(frame)[:, at].chunk(2, -1)
        return Totals(Scored(self._scores.so_far(frame)[:, at], position, token), sums, counts)

    def write(self, frame: Frame, totals: Totals) -> None:
        """Keep the aggregates of this pass's columns."""
        self._scores.write(frame, totals.scored.scores)
        self._places.write(frame, torch.cat([totals.scored.position, totals.scored.token], -1))
        self._floats.write(frame, torch.cat([totals.sums, totals.counts], -1))

    def select_rows(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        for history in (self._floats, self._scores, self._places):
            history.select_rows(rows)


class Kinds(NamedTuple):
    """Which columns are means, which are the last token's score; the others are maxima (or any)."""

    mean: Bool[Tensor, " n"]
    last: Bool[Tensor, " n"]

    @staticmethod
    def of(over: Sequence[Over], device: torch.device) -> Kinds:
        """From each column's word."""
        masks = (torch.tensor([o == w for o in over], dtype=torch.bool) for w in ("mean", "last"))
        return Kinds(*(mask.to(device) for mask in masks))


def aggregate(own: Scored, kinds: Kinds, frame: Frame, before: Totals) -> Totals:
    """Running aggregates at every position of this pass.

    Positions after the prompt, padding, and (but for `last`) special tokens add nothing. Without
    prompt lengths every token counts as prompt, so the aggregate runs on.

    Args:
        own: each token's own scores, one column per concept.
        kinds: how each column is aggregated.
        before: the aggregates at the column before the pass.
    """
    inside = frame.valid
    if frame.prompt_lengths is not None:
        inside = inside & (frame.logical < frame.prompt_lengths[:, None])
    plain = inside if frame.special is None else inside & ~frame.special
    counted = torch.where(kinds.last, inside[..., None], plain[..., None])
    best, at = _best(own.scores, counted, kinds.last | kinds.mean, before.scored.scores)
    sums = _running(before.sums, torch.where(counted, own.scores, 0.0))
    counts = _running(before.counts, counted.to(own.scores.dtype))
    mean = torch.where(counts > 0, sums / counts.clamp(min=1), float("-inf"))
    position = torch.cat([before.scored.position, own.position], 1).gather(1, at)
    token = torch.cat([before.scored.token, own.token], 1).gather(1, at)
    return Totals(Scored(torch.where(kinds.mean, mean, best), position, token), sums, counts)


def _best(
    scores: Tensor, counted: Bool[Tensor, "batch pos n"], latest: Tensor, before: Tensor
) -> tuple[Tensor, Tensor]:
    """Running maximum, or the latest counted score where `latest`; and its column, 0 = before."""
    columns = torch.arange(1, scores.shape[1] + 1, device=scores.device)[None, :, None]
    seen = torch.where(counted, columns, 0)
    newest = torch.cat([torch.zeros_like(seen[:, :1]), seen], 1).cummax(1).values[:, 1:]
    open_scores = torch.cat([before, torch.where(counted, scores, float("-inf"))], 1)
    top = open_scores.cummax(1)
    at = torch.where(latest, newest, top.indices[:, 1:])
    return open_scores.gather(1, at), at


def _running(before: Tensor, values: Tensor) -> Tensor:
    return torch.cat([before, values], 1).cumsum(1)[:, 1:]


def _empty(like: Tensor) -> Totals:
    nothing = torch.zeros_like(like)
    unknown = torch.full(like.shape, -1, dtype=torch.long, device=like.device)
    return Totals(Scored(torch.full_like(like, float("-inf")), unknown, unknown), nothing, nothing)
