"""Mixed batches of activations from any source, whose place is the consumer's, not the source's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from saesteer.axes import Rows
from saesteer.data.prefetch import Prefetched
from saesteer.data.ring import ShuffleRing
from saesteer.data.share import joint_place
from saesteer.data.sources import Source

COUNTS = ("n_tokens", "n_outliers", "n_read")
"""What a stream counts."""


@final
@dataclass(eq=False)
class ActivationStream:
    """Batches `[batch_size, width]`, mixed over many chunks of a source.

    Attributes:
        n_tokens: tokens drawn so far (with reuse, more than were read).
        n_read: tokens that came out of the source, those left out included.
        n_outliers: outlier tokens left out so far.
    """

    source: Source
    ring: ShuffleRing
    n_tokens: int = 0
    n_outliers: int = 0
    n_read: int = 0

    def __post_init__(self) -> None:
        self._spare: Tensor | None = None

    def next_batch(self) -> Rows | None:
        """The next mixed batch; None when the source has ended."""
        while self.ring.wants:
            if self._spare is None or not len(self._spare):
                chunk = self.source.next_chunk()
                if chunk is None:
                    return None
                self._spare = chunk.rows
                self.n_read += chunk.n_read
                self.n_outliers += chunk.n_outliers
            self._spare = self.ring.add(self._spare)
        self.n_tokens += self.ring.batch_size
        return self.ring.draw()

    def paused(self) -> AbstractContextManager[None]:
        """Nothing is read ahead for the extent of a `with`, so that the model is free for others:
        hooks are a module's, not a thread's."""
        return self.source.paused() if isinstance(self.source, Prefetched) else nullcontext()

    def close(self) -> None:
        """End a source that reads ahead."""
        if isinstance(self.source, Prefetched):
            self.source.close()

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The stream's place: what fits JSON, and tensors."""
        tensors = {f"ring.{name}": value for name, value in self.ring.state().items()}
        if self._spare is not None and len(self._spare):
            tensors["spare"] = self._spare
        return {"source": self.source.state(), **self.counts()}, tensors

    def counts(self) -> dict[str, int]:
        """Tokens drawn, left out and read."""
        return {name: getattr(self, name) for name in COUNTS}

    def restore(self, place: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Continue from `state()` of a stream with the same settings."""
        self.source.restore(place["source"])
        for name in COUNTS:
            setattr(self, name, place[name])
        self.ring.restore(under("ring.", tensors))
        self._spare = tensors.get("spare")

    def take_over(
        self, parts: Sequence[tuple[dict[str, Any], dict[str, Tensor]]], rank: int, size: int
    ) -> None:
        """Continue as stream `rank` of `size` from the states of another number of streams.

        Nothing is read twice or left out. The counts go on in stream 0, so that their sum is right.
        """
        places = [place for place, _ in parts]
        self.source.restore(joint_place([place["source"] for place in places]))
        for name in COUNTS:
            setattr(self, name, 0 if rank else sum(place[name] for place in places))
        self.ring.take_over([under("ring.", tensors) for _, tensors in parts], rank, size)
        spares = [tensors["spare"] for _, tensors in parts if "spare" in tensors]
        self._spare = torch.cat(spares)[rank::size] if spares else None


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
