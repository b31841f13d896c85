"""Norms of small activations, which nobody needs at once and which cost less many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from saesteer.steer.site_records import Draft, Waiting, norm

if TYPE_CHECKING:
    from saesteer.steer.records import PassRecord

ROOM = 2**18
"""Numbers in activations that wait for their norms, about."""


@final
class LateNorms:
    """The passes whose norms wait: on a CPU until `ROOM` numbers have come together.

    Elsewhere none waits longer than its pass, as a compiled model may write into its outputs at
    the next one.
    """

    def __init__(self) -> None:
        self._records: list[PassRecord] = []
        self._held = 0
        self._shelf: Shelf | None = None

    def shelve(self, record: PassRecord, n_sites: int, width: int) -> list[Tensor]:
        """Where a pass of one token a row puts its activations, one `[batch, 1, width]` a site."""
        rows = record.places.shape[0]
        shelf = self._shelf
        if shelf is None or shelf.shape != (n_sites, rows, width):
            self.settle()
            shelf = self._shelf = Shelf(n_sites, rows, width)
        return shelf.take(record)

    def add(self, record: PassRecord) -> None:
        """Take in a pass that is over, and has norms to take."""
        self._records.append(record)
        one = record.kept[0].resid  # a draft keeps a change of its size too
        self._held += 2 * one.numel() * len(record.kept)
        if self._held > ROOM or not one.is_cpu:
            self.settle()

    def settle(self) -> None:
        """Take all norms that wait."""
        records, self._records, self._held = self._records, [], 0
        settle(records)
        if self._shelf is not None:
            self._shelf.settle()


@final
class Shelf:
    """Room for what a plan's sites showed in some passes, made once and used again and again.

    Keeping each activation instead leaves the model's next ones to find new memory, layer by layer,
    which costs a step more than copying them does.
    """

    def __init__(self, n_sites: int, rows: int, width: int) -> None:
        self.shape = n_sites, rows, width
        n_passes = max(1, ROOM // (n_sites * rows * width))
        with torch.inference_mode(False), torch.no_grad():
            self._room = torch.empty(n_passes, n_sites, rows, 1, width)
            self._places = [[seen[site] for site in range(n_sites)] for seen in self._room]
        self._records: list[PassRecord] = []

    def take(self, record: PassRecord) -> list[Tensor]:
        """The places of one more pass; the passes before it are over."""
        if len(self._records) == len(self._places):
            self.settle()
            self._records.clear()
        self._records.append(record)
        return self._places[len(self._records) - 1]

    def settle(self) -> None:
        """Take the norms of what has been put here."""
        if not any(record.shelved for record in self._records):
            return
        norms = norm(self._room[: len(self._records)])
        for record, found in zip(self._records, norms, strict=True):
            seen = [(added, found[place], record.places.valid) for place, added in record.shelved]
            record.added.extend(seen)
            record.shelved.clear()  # not replaced: the pass may still be under way


def settle(records: Sequence[PassRecord]) -> None:
    """Take the norms of these passes, one shape after another, and let the activations go."""
    alike: dict[tuple[torch.Size, torch.device], list[tuple[PassRecord, Waiting]]] = {}
    for record in records:
        kept, record.kept = record.kept, []
        for one in kept:
            if isinstance(one, Draft):
                record.edited.setdefault(one.site, one.settled())
            else:
                alike.setdefault((one.resid.shape, one.resid.device), []).append((record, one))
    for some in alike.values():
        norms = norm(torch.stack([activation for _, (_, activation, _) in some]))
        for (record, (added, _, mask)), known in zip(some, norms, strict=True):
            record.added.append((added, known, mask))
