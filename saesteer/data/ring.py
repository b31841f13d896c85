"""A shuffle buffer of flat cost: rows are written once, gathered when drawn, and never moved.

Half of the slots are drawn at random, batch by batch; then drawn slots are written over with new
rows and a new order is drawn. With `reuse` r only one drawn slot in r is replaced, so that a row is
drawn r times on average: where the language model costs more than the SAE, tokens go further. Its
own generator makes the order independent of everything else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Rows


def rows_taken(batch_size: int, batches: int, reuse: int, n_batches: int) -> int:
    """Rows that a ring of these settings takes in until it has drawn `n_batches`."""
    half = batches * batch_size
    return 2 * half + (n_batches - 1) // batches * _replaced(half, reuse)


def _replaced(half: int, reuse: int) -> int:
    """Rows that are written over once half of the slots are drawn."""
    return max(1, half // reuse)


class ShuffleRing:
    """Mixes a stream of rows `[n, d_model]` over `2 * batches` batches.

    Args:
        batches: batches handed out between two refills; as many again stay to mix with the next.
        reuse: how often a row is drawn on average.
    """

    def __init__(
        self,
        d_model: int,
        batch_size: int,
        batches: int,
        *,
        seed: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        reuse: int = 1,
    ) -> None:
        self.batch_size = batch_size
        self._half = batches * batch_size
        self._replaced = _replaced(self._half, reuse)
        self._rows = torch.zeros(2 * self._half, d_model, dtype=dtype, device=device)
        self._order = torch.arange(2 * self._half)
        self._filled = 0
        self._drawn = 0
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def wants(self) -> int:
        """Rows that must be added before the next batch can be drawn; 0 when one can."""
        if self._filled < len(self._rows):
            return len(self._rows) - self._filled
        return 0

    def add(self, rows: Rows) -> Float[Tensor, "left d_model"]:
        """Write up to `wants` rows into free slots; returns those that found no room."""
        n = min(self.wants, len(rows))
        slots = self._order[self._filled : self._filled + n].to(self._rows.device)
        self._rows.index_copy_(0, slots, rows[:n].to(self._rows))
        self._filled += n
        if n and self.wants == 0:
            self._order = torch.randperm(len(self._rows), generator=self._generator)
            self._drawn = 0
        return rows[n:]

    def draw(self) -> Rows:
        """A random batch of rows; call only when `wants` is 0."""
        assert self.wants == 0, "draw from a ring that is not full"
        start = self._drawn
        self._drawn += self.batch_size
        batch = self._rows[self._order[start : self._drawn].to(self._rows.device)]
        if self._drawn == self._half:
            self._order = self._order.roll(-self._half)
            self._filled = len(self._rows) - self._replaced
        return batch

    def state(self) -> dict[str, Tensor]:
        """Everything needed to continue, as tensors.

        `rows` is the ring's own memory, not a copy: write it out before the next `add`.
        """
        return {
            "rows": self._rows,
            "order": self._order,
            "counts": torch.tensor([self._filled, self._drawn]),
            "generator": self._generator.get_state(),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from `state()` of a ring of the same shape."""
        self._rows.copy_(state["rows"])
        self._order = state["order"].clone()
        self._filled, self._drawn = (int(n) for n in state["counts"])
        self._generator.set_state(state["generator"])

    def take_over(self, states: Sequence[dict[str, Tensor]], rank: int, size: int) -> None:
        """Continue, as one ring of `size`, with a share of what other rings held.

        Rows go round in the rings' own order, so that what was drawn stays drawn. Together the new
        rings must be as large as the old ones, which must have drawn equally many batches.
        """
        dealt = torch.stack([state["rows"][state["order"]] for state in states], 1).flatten(0, 1)
        self._rows.copy_(dealt[rank::size])
        self._order = torch.arange(len(self._rows))
        filled, drawn = (int(n) for n in states[0]["counts"])
        full = filled == len(states[0]["rows"])
        self._filled = len(self._rows) - (0 if full else self._replaced)
        self._drawn = drawn * len(states) // size
