"""A source whose activations say which chunk they are."""

from __future__ import annotations

import torch

from saesteer.data.sources import Chunk


class Counting:
    """Chunks 0, 1, 2 ...; ends at `end`, fails at `bad`."""

    def __init__(self, end=10, bad=None):
        self.place, self.end, self.bad = 0, end, bad

    def next_chunk(self):
        if self.place == self.bad:
            raise ValueError(f"chunk {self.bad} is bad")
        if self.place == self.end:
            return None
        self.place += 1
        return Chunk(torch.full((2, 3), float(self.place - 1)), 2, 0)

    def skip(self):
        if self.place == self.end:
            return False
        self.place += 1
        return True

    def state(self):
        return {"place": self.place}

    def restore(self, state):
        self.place = state["place"]
