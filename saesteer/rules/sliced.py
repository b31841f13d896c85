"""Rule programs on 64 rows at a time: bit r of an atom's word says whether it holds in row r.

One `and` then decides a literal in 64 rows, so the arithmetic is next to nothing and the number of
operations counts. Each atom stands beside its complement, so a negated literal is a gather like any
other; bodies of equal rank within their heads lie together, so that heads with many bodies are
served by `or` on slices, without a gather of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from saesteer.rules.levels import Level

WORD = 64
Words = Int[Tensor, "n words"]


@final
@dataclass(frozen=True, eq=False)
class SlicedLevel:
    """One stratum over rows of words: atoms 0..n-1, always true at n, complements from n + 1.

    `literals` [width * n_bodies] are rows, the first literal of every body, then every second one;
    `width` is a power of two. `rounds` counts the bodies of each rank: heads' first ones, seconds,
    and so on. `heads` are the rows they support, `both` these and their complements.
    """

    literals: Int[Tensor, " n_literals"]
    width: int
    rounds: tuple[int, ...]
    heads: Int[Tensor, " n_heads"]
    both: Int[Tensor, " twice_n_heads"]
    passes: int

    def step(self, rows: Int[Tensor, "n_rows words"]) -> None:
        """Derive the heads whose bodies hold, in place."""
        held, width = rows.index_select(0, self.literals), self.width
        while width > 1:
            width //= 2
            half = len(held) // 2
            held = held[:half] & held[half:]
        first, *others = held.split(self.rounds)
        for more in others:
            first[: len(more)].bitwise_or_(more)
        first = first | rows.index_select(0, self.heads)
        rows.index_copy_(0, self.both, torch.cat([first, ~first]))


@final
@dataclass(frozen=True, eq=False)
class SlicedProgram:
    """A program over `n` columns; `ranks` [8] are the bits of a byte."""

    n: int
    levels: tuple[SlicedLevel, ...]
    ranks: Tensor

    @staticmethod
    def of(levels: Sequence[Level], n: int) -> SlicedProgram:
        """Lay the levels out over `n` columns."""
        ranks = torch.tensor([1 << i for i in range(8)], dtype=torch.uint8)
        return SlicedProgram(n, tuple(_sliced(level, n) for level in levels), ranks)

    def run(self, facts: Bool[Tensor, "n_rows n"]) -> Bool[Tensor, "n_rows n"]:
        """The facts and everything that follows from them, row by row."""
        words = pack(facts)
        true = words.new_full((1, words.shape[1]), -1)
        rows = torch.cat([words, true, ~words, ~true])
        for level in self.levels:
            for _ in range(level.passes):
                level.step(rows)
        return unpack(rows[: self.n], len(facts), self.ranks)

    def to(self, device: torch.device | str) -> SlicedProgram:
        """The same program on another device."""
        names = ("literals", "heads", "both")
        moved = (
            replace(level, **{name: getattr(level, name).to(device) for name in names})
            for level in self.levels
        )
        return replace(self, levels=tuple(moved), ranks=self.ranks.to(device))


def pack(facts: Bool[Tensor, "n_rows n"]) -> Words:
    """One word per column and 64 rows; rows are padded with False."""
    n_rows, n = facts.shape
    n_words = max(1, -(-n_rows // WORD))
    x = pad(facts.to(torch.uint8), (0, 0, 0, n_words * WORD - n_rows)).view(n_words * 8, 8, n)
    x = x[:, :4] | (x[:, 4:] << 4)
    x = x[:, :2] | (x[:, 2:] << 2)
    x = x[:, 0] | (x[:, 1] << 1)
    bytes_ = x.view(n_words, 8, n).permute(2, 0, 1).reshape(-1)
    return bytes_.view(torch.int64).view(n, n_words)


def unpack(words: Words, n_rows: int, ranks: Tensor) -> Bool[Tensor, "n_rows n"]:
    """The rows of `pack` again."""
    n, n_words = words.shape
    bytes_ = words.reshape(-1).view(torch.uint8).view(n, n_words, 8).permute(1, 2, 0)
    bits = (bytes_.contiguous().view(n_words * 8, 1, n) & ranks[None, :, None]) != 0
    return bits.reshape(n_words * WORD, n)[:n_rows]


def _sliced(level: Level, n: int) -> SlicedLevel:
    bodies: dict[int, list[list[int]]] = {}
    for head, body in zip(level.heads, level.bodies, strict=True):
        rows = [column + negated * (n + 1) for column, negated in body]
        bodies.setdefault(head, []).append(rows)
    heads = sorted(bodies, key=lambda head: -len(bodies[head]))
    ranked = [
        [bodies[head][rank] for head in heads if len(bodies[head]) > rank]
        for rank in range(len(bodies[heads[0]]))
    ]
    flat = [body for same_rank in ranked for body in same_rank]
    width = 1 << (max(1, *map(len, flat)) - 1).bit_length()
    literals = [[body[i] if i < len(body) else n for body in flat] for i in range(width)]
    columns = torch.tensor(heads)
    return SlicedLevel(
        literals=torch.tensor(literals).flatten(),
        width=width,
        rounds=tuple(map(len, ranked)),
        heads=columns,
        both=torch.cat([columns, columns + n + 1]),
        passes=level.passes,
    )
