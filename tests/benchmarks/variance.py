"""Explained variance after many steps, beside sae-lens's.

Both begin with the same weights and read the same new activations at every step. What they explain
is measured on batches that neither was trained on. Ours trains as it does (decoder rows kept at
unit norm, which sae-lens does not do).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from end_to_end import fvu
from step import activations, our_learner, same_weights, setting, their_trainer
from timing import Progress
from torch import Tensor

from saesteer.models.load import best_device

N_HELD = 2
N_LOOKS = 20
"""Times that variance is measured in a run."""

Contender = tuple[Callable[[Tensor], Any], Callable[[Tensor], float]]
"""Its step, and the share of a batch's variance that it explains."""


def run(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Of both the explained variance on the way and at the end."""
    args.device, args.tuned = args.device or best_device(), False
    contenders = {"saesteer": _ours(args), "sae-lens": _theirs(args)}
    batches = activations(args)
    held = list(islice(batches, N_HELD))
    every = max(1, args.steps // N_LOOKS)
    curves: dict[str, dict[int, float]] = {name: {} for name in contenders}
    for step, batch in enumerate(islice(batches, args.steps), 1):
        for name, (train, explained) in contenders.items():
            train(batch)
            if step % every == 0 or step == args.steps:
                curves[name][step] = sum(map(explained, held)) / N_HELD
        shown = ", ".join(f"{name} {[*c.values()][-1]:.4f}" for name, c in curves.items() if c)
        progress(step, args.steps, shown)
    last = {name: curve[args.steps] for name, curve in curves.items()}
    return {
        "explained_variance": last,
        "points_ahead": 100 * (last["saesteer"] - last["sae-lens"]),
        "curves": curves,
        "setting": setting(args) | {"steps": args.steps},
    }


def _ours(args: argparse.Namespace) -> Contender:
    learner = our_learner(args)

    @torch.no_grad()
    def explained(batch: Tensor) -> float:
        return 1 - learner.coder.loss(batch, None).fvu.item()

    return learner.step, explained


def _theirs(args: argparse.Namespace) -> Contender:
    trainer = their_trainer(args)
    same_weights(our_learner(args).coder, trainer.sae)
    return trainer.step, lambda batch: 1 - fvu(trainer.sae, batch)
