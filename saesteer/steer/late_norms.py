"""Norms of small activations, which nobody needs at once and which cost less many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from saesteer.steer.records import PassRecord, Waiting

ROOM = 2**18
"""Numbers in activations that wait for their norms, about."""


def norm(tensor: Tensor) -> Tensor:
    """‖·‖ over the last axis in fp32, outside any graph."""
    plain = tensor.detach() if tensor.requires_grad else tensor
    return torch.linalg.vector_norm(plain.float(), dim=-1)


@final
class LateNorms:
    """The passes whose norms wait: on a CPU until `ROOM` numbers have come together.

    Elsewhere none waits longer than its pass, as a compiled model may write into its outputs at
    the next one.
    """

    def __init__(self) -> None:
        self._records: list[PassRecord] = []
        self._held = 0

    def add(self, record: PassRecord) -> None:
        """Take in a pass that is over, and has norms to take."""
        self._records.append(record)
        one = record.waiting[0][1] if record.waiting else record.drafts[0].resid
        self._held += one.numel() * (len(record.waiting) + 2 * len(record.drafts))
        if self._held > ROOM or not one.is_cpu:
            self.settle()

    def settle(self) -> None:
        """Take all norms that wait."""
        records, self._records, self._held = self._records, [], 0
        settle(records)


def settle(records: Sequence[PassRecord]) -> None:
    """Take the norms of these passes, one shape after another, and let the activations go."""
    for record in records:
        drafts, record.drafts = record.drafts, []
        for draft in drafts:
            record.edited.setdefault(draft.site, draft.settled())
    alike: dict[tuple[torch.Size, torch.device], list[tuple[PassRecord, Waiting]]] = {}
    for record in records:
        waiting, record.waiting = record.waiting, []
        for one in waiting:
            alike.setdefault((one[1].shape, one[1].device), []).append((record, one))
    for some in alike.values():
        norms = norm(torch.stack([activation for _, (_, activation, _) in some]))
        for (record, (added, _, mask)), known in zip(some, norms, strict=True):
            record.added.append((added, known, mask))
