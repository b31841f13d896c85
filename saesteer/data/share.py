"""One text for many processes: each makes its own chunks of it and passes over the others'.

Every process walks the same chunks in the same order, so a place is a number of chunks, and a place
can be taken over by another number of processes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, final

from saesteer.data.sources import Chunk, Skippable


@final
class Share:
    """Chunks `rank`, `rank + size`, `rank + 2 * size` ... of a source.

    To pass over a chunk of a model still costs its tokenising; over a shard of a cache, nothing.

    Args:
        rank: from 0, below `size`.
        size: shares in all; the one share of a single process is the source itself.
    """

    def __init__(self, source: Skippable, rank: int = 0, size: int = 1) -> None:
        self._source = source
        self._rank = rank
        self._size = size
        self._passed = 0
        self._taken: Collection[int] = ()

    def next_chunk(self) -> Chunk | None:
        """The next chunk of this share; None at the end of the source."""
        while self._passed % self._size != self._rank or self._passed in self._taken:
            if not self._source.skip():
                return None
            self._passed += 1
        chunk = self._source.next_chunk()
        self._passed += chunk is not None
        return chunk

    def state(self) -> dict[str, Any]:
        """Chunks passed, the source's place behind them, and chunks ahead that are not to be made.

        Those ahead were made by some process of an earlier, differently shared run.
        """
        return {
            "passed": self._passed,
            "taken": [chunk for chunk in self._taken if chunk >= self._passed],
            "source": self._source.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken from the same share, or to a `joint_place`."""
        self._passed, self._taken = state["passed"], frozenset(state["taken"])
        self._source.restore(state["source"])


def joint_place(places: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The one place from which any number of shares go on after these, in the order of ranks.

    It is that of the share that is furthest behind; what the others made beyond it is taken.
    """
    last = min(places, key=lambda place: place["passed"])
    made = {
        chunk
        for rank, place in enumerate(places)
        for chunk in range(last["passed"], place["passed"])
        if chunk % len(places) == rank
    }
    return {**last, "taken": sorted(made.union(last["taken"]))}
