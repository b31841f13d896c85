"""Scores aggregated over the tokens so far, prompt and answer alike: time, as concepts see it.

`so_far`: the greatest score of any token so far. `last_n`: of the last n tokens. `for_n`: the least
of the last n tokens, so that a concept must have held at each of them; nothing before there are n.
`since`: the greatest since another concept last held, that token included; nothing before it did.
Every token's own score is kept by physical column, so caches, rollbacks and beams agree. Padding
and special tokens score nothing: they raise no maximum, and they end a run of `for_n`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saesteer.features.concepts import Concept
from saesteer.rules.prompt_scores import Scored
from saesteer.steer.frame import Frame
from saesteer.steer.gate import ColumnHistory

CAUSAL = ("so_far", "last_n", "for_n", "since")
NOTHING = float("-inf")


@final
class CausalState:
    """Own scores, resets, and which token each column was, of one text."""

    def __init__(self) -> None:
        """Start with no column seen."""
        self._scores = ColumnHistory(fill=NOTHING)
        self._resets = ColumnHistory(fill=0.0)
        self._places = ColumnHistory(fill=-1.0)

    def write(self, frame: Frame, own: Scored, resets: Bool[Tensor, "batch pos n"]) -> None:
        """Keep this pass's columns."""
        self._scores.write(frame, torch.where(frame.valid[..., None], own.scores, NOTHING))
        self._resets.write(frame, (resets & frame.valid[..., None]).float())
        self._places.write(frame, torch.stack([own.position[..., 0], own.token[..., 0]], -1))

    def aggregate(self, concepts: Sequence[Concept], frame: Frame) -> Scored:
        """Each concept's aggregate at every position of the pass, one column per concept."""
        scores, resets = self._scores.so_far(frame), self._resets.so_far(frame) > 0
        found = [
            _at(concept, scores[..., i], resets[..., i], frame.start)
            for i, concept in enumerate(concepts)
        ]
        best, at = (torch.stack(parts, -1) for parts in zip(*found, strict=True))
        places = self._places.so_far(frame).long()
        position, token = (places[..., i].gather(1, at.flatten(1)).view(at.shape) for i in range(2))
        unread = best == NOTHING
        return Scored(best, position.masked_fill(unread, -1), token.masked_fill(unread, -1))

    def select_rows(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        for history in (self._scores, self._resets, self._places):
            history.select_rows(rows)


def _at(
    concept: Concept,
    scores: Float[Tensor, "batch columns"],
    resets: Bool[Tensor, "batch columns"],
    start: int,
) -> tuple[Float[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """The aggregate from column `start` on, and the column it rests on."""
    if concept.aggregate in ("last_n", "for_n"):
        return _window(scores, concept.n, start, least=concept.aggregate == "for_n")
    best, at = _running(scores, resets if concept.aggregate == "since" else resets & False)
    if concept.aggregate == "since":
        best = best.masked_fill(resets.cummax(1).values.logical_not(), NOTHING)
    return best[:, start:], at[:, start:]


def _window(scores: Tensor, n: int, start: int, *, least: bool) -> tuple[Tensor, Tensor]:
    """Greatest or least of the n columns that end at each."""
    padded = torch.nn.functional.pad(scores, (n - 1, 0), value=NOTHING)
    windows = padded[:, start:].unfold(1, n, 1)
    best = windows.min(-1) if least else windows.max(-1)
    column = torch.arange(start, scores.shape[1], device=scores.device)
    return best.values, (column + best.indices - (n - 1)).clamp(min=0)


def _running(scores: Tensor, resets: Tensor) -> tuple[Tensor, Tensor]:
    """Running maximum that starts anew at each reset, exactly: by rank, later segments higher."""
    columns = scores.shape[1]
    order = scores.argsort(dim=1, stable=True)
    counted = torch.arange(columns, device=scores.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, counted)
    top = (resets.long().cumsum(1) * columns + rank).cummax(1).values % columns
    at = order.gather(1, top)
    return scores.gather(1, at), at
