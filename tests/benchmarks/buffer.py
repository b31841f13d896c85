"""The shuffle ring against sae-lens's mixing buffer, at equal size, chunks and batches."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from timing import Progress, interleave, ratios, spread

from saesteer.data.ring import ShuffleRing

CHUNK = 4096
"""Rows that one pass of a model gives: 16 rows of 256 tokens."""


def run(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Microseconds a token that mixing costs, both fed from the same rows in memory."""
    from sae_lens.training.mixing_buffer import mixing_buffer

    n_rows, width = (int(n) for n in args.shape.split("x"))
    rows = torch.randn(CHUNK, width, generator=torch.Generator().manual_seed(0))
    ring = ShuffleRing(width, args.batch, n_rows // (2 * args.batch), seed=0, dtype=rows.dtype)
    theirs = mixing_buffer(n_rows, args.batch, _endless(rows))
    n_batches = max(1, n_rows // args.batch)

    def draw_ours() -> None:
        for _ in range(n_batches):
            while ring.wants:
                ring.add(rows)
            ring.draw()

    def draw_theirs() -> None:
        for _ in range(n_batches):
            next(theirs)

    contenders = {"sae-lens": draw_theirs, "saesteer": draw_ours}
    seconds = interleave(contenders, args.rounds, progress)
    drawn = n_batches * args.batch
    return {
        "ratio": ratios(seconds["sae-lens"], seconds["saesteer"]),
        "microseconds_per_token": 1e6 * spread(seconds["saesteer"])["median"] / drawn,
        "rival_microseconds_per_token": 1e6 * spread(seconds["sae-lens"])["median"] / drawn,
        "setting": {"shape": args.shape, "batch": args.batch, "threads": torch.get_num_threads()},
    }


def _endless(rows: torch.Tensor) -> Iterator[torch.Tensor]:
    while True:
        yield rows
