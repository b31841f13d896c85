"""Explained variance after many steps: with a bf16 encoder, with an fp32 one, and sae-lens's.

All begin with the same weights and read the same new activations at every step. What they explain
is measured on batches that none was trained on. Ours trains as it does (decoder rows kept at unit
norm); sae-lens's step takes most of the time, and `--against none` leaves it out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from copy import copy
from itertools import islice
from typing import Any

import torch
from step import activations, our_learner, same_weights, setting, their_trainer
from timing import Progress
from torch import Tensor

N_HELD = 2
N_LOOKS = 20
"""Times that variance is measured in a run."""

Contender = tuple[Callable[[Tensor], Any], Callable[[Tensor], float]]
"""Its step, and the share of a batch's variance that it explains."""


def run(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Of each contender the explained variance on the way and at the end."""
    args.device, args.tuned = "cpu", False
    contenders = {dtype: _ours(args, dtype) for dtype in ("float32", "bfloat16")}
    if args.against == "sae-lens":
        contenders["sae-lens"] = _theirs(args)
    batches = activations(args)
    held = list(islice(batches, N_HELD))
    every = max(1, args.steps // N_LOOKS)
    curves: dict[str, dict[int, float]] = {name: {} for name in contenders}
    for step, batch in enumerate(islice(batches, args.steps), 1):
        for name, (train, explained) in contenders.items():
            train(batch)
            if step % every == 0 or step == args.steps:
                curves[name][step] = sum(map(explained, held)) / N_HELD
        shown = ", ".join(f"{name} {max(c.values()):.4f}" for name, c in curves.items() if c)
        progress(step, args.steps, shown)
    last = {name: curve[args.steps] for name, curve in curves.items()}
    return {
        "explained_variance": last,
        "points_apart": 100 * (max(last.values()) - min(last.values())),
        "curves": curves,
        "setting": setting(args) | {"dtype": list(contenders), "steps": args.steps},
    }


def _ours(args: argparse.Namespace, dtype: str) -> Contender:
    args = copy(args)
    args.dtype = dtype
    learner = our_learner(args)

    @torch.no_grad()
    def explained(batch: Tensor) -> float:
        return 1 - learner.coder.loss(batch, None).fvu.item()

    return learner.step, explained


def _theirs(args: argparse.Namespace) -> Contender:
    trainer = their_trainer(args)
    same_weights(our_learner(args).coder, trainer.sae)

    @torch.no_grad()
    def explained(batch: Tensor) -> float:
        error = (batch - trainer.sae(batch)).square().sum()
        return 1 - (error / (batch - batch.mean(0)).square().sum()).item()

    return trainer.step, explained
