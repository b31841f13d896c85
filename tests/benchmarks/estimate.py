"""`train estimate` held against a run: seconds, memory and disk."""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from multi import settings, steps
from timing import Progress, peak_resident, spread

from saesteer.models import load_model, load_skeleton
from saesteer.training.estimate import estimate
from saesteer.training.rates import measure_rates
from saesteer.training.sae import open_trainer


def run(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Refill and drain the shuffle ring in each round; measured over estimated, 1 being right."""
    args.n = 0
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(args.model, dtype=args.dtype)
        config = settings(args, Path(folder), model.tokenizer)
        n_steps = config.shuffle_batches
        config = replace(config, n_tokens=args.rounds * n_steps * config.batch_size)
        trainer = open_trainer(config, model)
        steps(trainer, n_steps)
        times = []
        for turn in range(args.rounds):
            rates = measure_rates(str(model.device), getattr(torch, config.dtype))
            cost = estimate(config, load_skeleton(args.model), rates)
            began = time.perf_counter()
            steps(trainer, n_steps)
            elapsed = time.perf_counter() - began
            times.append(elapsed * args.rounds / (3600 * cost.hours))
            progress(turn + 1, args.rounds, f"{elapsed:.1f} s")
        checkpoint = trainer.save(Path(folder) / "run")
        size = sum(file.stat().st_size for file in checkpoint.iterdir())
        peak = peak_resident()
    return {
        "time_ratio": spread(times),
        "disk_ratio": size * (config.keep_checkpoints + 1) / cost.disk["checkpoints"],
        "memory_gb": {"peak": peak / 1e9, "estimate": cost.memory["in_all"] / 1e9},
        "setting": {"d_sae": args.d_sae, "site": args.site, "dtype": args.dtype},
    }
