"""`saesteer train ...`."""

from __future__ import annotations

import argparse
import signal
import sys

from saesteer.cli.common import Progress, check_json, show_table, write_json


def train_sae(args: argparse.Namespace) -> int:
    """Train one SAE; a signal saves and exits with 128 plus its number."""
    from dataclasses import replace

    from saesteer.config import TrainSAEConfig, load_config
    from saesteer.training.sae import train_sae as train
    from saesteer.training.signals import watch_signals

    check_json(args)
    config = load_config(TrainSAEConfig, args.config, args.overrides)
    if args.device:
        config = replace(config, device=args.device)
    with watch_signals() as stop, Progress("train sae", quiet=args.quiet) as progress:
        folder = train(config, args.out, resume=args.resume, stop=stop, progress=progress)
    if folder is None:
        number = stop.signal or signal.SIGTERM
        print(
            f"saesteer: stopped by {signal.Signals(number).name} after a checkpoint; go on with "
            f"the same command and --resume.",
            file=sys.stderr,
        )
        return 128 + number
    write_json(args, {"folder": str(folder)})
    print(folder)
    return 0


def estimate(args: argparse.Namespace) -> None:
    """Print FLOP, bytes, memory, disk and hours of a run."""
    import torch

    from saesteer.config import TrainSAEConfig, load_config
    from saesteer.models import best_device, load_skeleton
    from saesteer.training.estimate import estimate as cost_of
    from saesteer.training.estimate import gpu_rates, measure_rates

    check_json(args)
    tokens = [] if args.tokens is None else [f"n_tokens={int(args.tokens)}"]
    config = load_config(TrainSAEConfig, args.config, [*args.overrides, *tokens])
    if args.gpus is None:
        device = args.device or config.device or best_device()
        rates = measure_rates(device, getattr(torch, config.dtype))
    else:
        rates = gpu_rates(args.gpu)
    cost = cost_of(config, load_skeleton(config.model), rates, args.gpus or 1)
    write_json(args, cost.to_dict())
    show_table(cost.table())
