"""Rule programs on 64 rows at a time: bit r of an atom's word says whether it holds in row r.

One `and` then decides a literal in 64 rows, so the arithmetic is next to nothing and the number of
operations counts. Each atom stands beside its complement, so a negated literal is a gather like any
other; heads of a stratum lie together, and so do bodies of equal rank within their heads, so that
all but the literals is done on slices, without a gather of its own. Rows are packed and unpacked
eight booleans at a time, which also keeps them below the size from which a second thread is asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saesteer.rules.levels import Level
from saesteer.rules.sliced_host import ONES, WORD, HostProgram

Words = Int[Tensor, "n words"]


@final
@dataclass(frozen=True, eq=False)
class SlicedLevel:
    """One stratum over rows of words: atoms 0..n-1, always true at n, complements from n + 1.

    `literals` [width * n_bodies] are rows, the first literal of every body, then every second one;
    `width` is a power of two. `rounds` counts the bodies of each rank: heads' first ones, seconds,
    and so on. `heads` are the rows they support.
    """

    literals: Int[Tensor, " n_literals"]
    width: int
    rounds: tuple[int, ...]
    heads: slice
    passes: int

    def step(self, rows: Words, complements: Int[Tensor, "n_complements words"]) -> None:
        """Derive the heads whose bodies hold, in place; `complements` are the rows from n + 1."""
        held, width = rows.index_select(0, self.literals), self.width
        while width > 1:
            width //= 2
            half = len(held) // 2
            held = held[:half] & held[half:]
        first, *others = held.split(self.rounds)
        for more in others:
            first[: len(more)].bitwise_or_(more)
        known = rows[self.heads]
        known.bitwise_or_(first)
        torch.bitwise_not(known, out=complements[self.heads])


@final
@dataclass(frozen=True, eq=False)
class SlicedProgram:
    """A program over `n` columns.

    `bits` [8] numbers those of a byte; `columns` [n] says which column each row is, `rows` which
    row each column, up to a whole number of bytes.
    """

    n: int
    levels: tuple[SlicedLevel, ...]
    bits: Int[Tensor, " 8"]
    columns: Int[Tensor, " n"]
    rows: Int[Tensor, " n_padded"]

    @staticmethod
    def of(levels: Sequence[Level], n: int) -> SlicedProgram:
        """Lay the levels out over `n` columns: first what no rule supports, then level by level."""
        heads = [_heads(level) for level in levels]
        supported = {head for some in heads for head in some}
        order = [column for column in range(n) if column not in supported]
        order += [head for some in heads for head in some]
        row_of = {column: row for row, column in enumerate(order)}
        sliced = (_sliced(*each, row_of) for each in zip(levels, heads, strict=True))
        rows = [row_of.get(column, n) for column in range(padded(n))]
        numbers = (torch.tensor(each, dtype=torch.long) for each in (range(8), order, rows))
        return SlicedProgram(n, tuple(sliced), *numbers)

    def run(self, facts: Bool[Tensor, "n_rows given"]) -> Bool[Tensor, "n_rows n_columns"]:
        """The facts, of the first columns, and everything that follows from them, row by row."""
        if facts.is_cpu and not torch.compiler.is_compiling():
            return torch.from_numpy(self.host.run(facts.numpy()))
        return self.run_tensors(facts)

    def run_tensors(self, facts: Bool[Tensor, "n_rows given"]) -> Bool[Tensor, "n_rows n_columns"]:
        """The same by torch, on any device."""
        words = pack(facts, self.n).index_select(0, self.columns)
        true = words.new_full((1, words.shape[1]), -1)
        rows = torch.cat([words, true, ~words, ~true])
        for level in self.levels:
            for _ in range(level.passes):
                level.step(rows, rows[self.n + 1 :])
        return unpack(rows.index_select(0, self.rows), self.bits)[: len(facts), : self.n]

    @cached_property
    def host(self) -> HostProgram:
        """The same by numpy."""
        return HostProgram.of(self)

    def to(self, device: torch.device | str) -> SlicedProgram:
        """The same program on another device."""
        levels = tuple(replace(each, literals=each.literals.to(device)) for each in self.levels)
        moved = {name: getattr(self, name).to(device) for name in ("bits", "columns", "rows")}
        return replace(self, levels=levels, **moved)


def padded(n: int) -> int:
    """`n` flags up to whole words of eight."""
    return -(-max(n, 1) // 8) * 8


def pack(facts: Bool[Tensor, "n_rows given"], n: int) -> Words:
    """One word per column and 64 rows, of `n` columns; missing rows and columns are False."""
    n_rows, given = facts.shape
    n_words = max(1, -(-n_rows // WORD))
    x = torch.cat([facts, facts.new_zeros(n_rows, padded(n) - given)], 1)
    if n_rows < n_words * WORD:
        x = torch.cat([x, x.new_zeros(n_words * WORD - n_rows, x.shape[1])])
    x = x.view(torch.int64).view(n_words * 8, 8, -1)
    x = x[:, :4] | (x[:, 4:] << 4)
    x = x[:, :2] | (x[:, 2:] << 2)
    x = x[:, 0] | (x[:, 1] << 1)
    bytes_ = x.view(torch.uint8).view(n_words, 8, -1).permute(2, 0, 1).reshape(-1)
    return bytes_.view(torch.int64).view(-1, n_words)


def unpack(words: Words, bits: Int[Tensor, " 8"]) -> Bool[Tensor, "n_rows n"]:
    """The rows of `pack` again, missing ones with them."""
    n, n_words = words.shape
    bytes_ = words.view(torch.uint8).view(n, n_words, 8).permute(1, 2, 0).contiguous()
    eights = bytes_.view(torch.int64).view(n_words * 8, 1, -1)
    return ((eights >> bits[:, None]) & ONES).view(torch.bool).view(n_words * WORD, n)


def _heads(level: Level) -> list[int]:
    """The columns that a level supports, those with the most bodies first."""
    return [head for head, _ in Counter(level.heads).most_common()]


def _sliced(level: Level, heads: Sequence[int], row_of: Mapping[int, int]) -> SlicedLevel:
    n = len(row_of)
    bodies: dict[int, list[list[int]]] = {}
    for head, body in zip(level.heads, level.bodies, strict=True):
        rows = [row_of[column] + negated * (n + 1) for column, negated in body]
        bodies.setdefault(head, []).append(rows)
    ranked = [
        [bodies[head][rank] for head in heads if len(bodies[head]) > rank]
        for rank in range(len(bodies[heads[0]]))
    ]
    flat = [body for same_rank in ranked for body in same_rank]
    width = 1 << (max(1, *map(len, flat)) - 1).bit_length()
    literals = [[body[i] if i < len(body) else n for body in flat] for i in range(width)]
    first = row_of[heads[0]]
    return SlicedLevel(
        literals=torch.tensor(literals).flatten(),
        width=width,
        rounds=tuple(map(len, ranked)),
        heads=slice(first, first + len(heads)),
        passes=level.passes,
    )
