"""Which tokens are special or end a text, asked of whole tensors in every pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import final

import torch
from torch import Tensor

from saesteer.axes import TokenIds, TokenMask

FEW = 64
"""Tokens up to which it pays to look at them on the host first, if that is where they are."""


@final
class Ids:
    """Sets of token ids that answer for whole tensors, all of them with one lookup."""

    def __init__(self, *sets: Sequence[int] | Tensor) -> None:
        self.sets = tuple(tuple(sorted({int(i) for i in ids})) for ids in sets)
        self._any = frozenset(i for ids in self.sets for i in ids)
        self._none = (None,) * len(self.sets)
        self._tables: dict[torch.device, Tensor] = {}

    def misses(self, tokens: TokenIds) -> bool:
        """Whether none of the tokens is one of the ids, where that costs next to nothing to see.

        That is so for a decoding step on the CPU; elsewhere looking would wait for the device.
        """
        if not tokens.is_cpu or (n := tokens.numel()) > FEW:
            return False
        if n == 1:
            return tokens.item() not in self._any
        return self._any.isdisjoint(chain.from_iterable(tokens.tolist()))

    def among(self, tokens: TokenIds) -> tuple[TokenMask | None, ...]:
        """As a call, but None for each set where all of them are known to miss."""
        return self._none if self.misses(tokens) else self(tokens)

    def __call__(self, tokens: TokenIds) -> tuple[TokenMask, ...]:
        """True where a token is one of the ids, `[batch, pos]` for each set."""
        table = self._tables.get(tokens.device)
        if table is None:
            last = max((ids[-1] for ids in self.sets if ids), default=-1)
            table = torch.zeros(last + 2, len(self.sets), dtype=torch.bool)
            for column, ids in enumerate(self.sets):
                table[list(ids), column] = True
            table = self._tables[tokens.device] = table.to(tokens.device)
        return table[tokens.clamp(0, len(table) - 1)].unbind(-1)
