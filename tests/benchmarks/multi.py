"""Several SAEs from one forward pass against as many runs of their own."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timing import Progress, interleave, ratios, spread

from saesteer.config import TextConfig, TrainSAEConfig
from saesteer.models import load_model
from saesteer.training.sae import open_trainer


def run(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """`args.n` SAEs at one site: steps of all together against steps of each alone."""
    model = load_model(args.model, dtype=args.dtype)
    with tempfile.TemporaryDirectory() as folder:
        together = settings(args, Path(folder), model.tokenizer)
        alone = replace(together, variants={})
        n_steps = 2 * together.shuffle_batches
        many = open_trainer(together, model)
        single = open_trainer(alone, model)
        contenders = {
            "separate": lambda: steps(single, args.n * n_steps),
            "together": lambda: steps(many, n_steps),
        }
        seconds = interleave(contenders, args.rounds, progress)
    drawn = n_steps * together.batch_size
    return {
        "ratio": ratios(seconds["separate"], seconds["together"]),
        "seconds_per_million_tokens": 1e6 * spread(seconds["together"])["median"] / drawn,
        "setting": {"n": args.n, "d_sae": args.d_sae, "threads": torch.get_num_threads()},
    }


def steps(trainer: Any, n: int) -> None:
    """So many optimiser steps."""
    for _ in range(n):
        trainer.step()


def settings(args: argparse.Namespace, folder: Path, tokenizer: Any) -> TrainSAEConfig:
    """A run on random words, as many as are needed."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(100, len(tokenizer), (400_000,), generator=generator)
    (folder / "words.txt").write_text(tokenizer.decode(ids), encoding="utf-8")
    return TrainSAEConfig(
        model=args.model,
        site=args.site,
        text=TextConfig(str(folder), passes=10_000),
        d_sae=args.d_sae,
        k=args.k,
        shuffle_batches=4,
        dtype=args.dtype,
        variants={f"seed{i}": {"seed": i} for i in range(args.n)},
    )
