"""`saesteer train ...`."""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from saesteer.cli.common import Progress, check_json, show_table, write_json

if TYPE_CHECKING:
    from saesteer.config import TrainSAEConfig
    from saesteer.training.signals import StopRequest


def train_sae(args: argparse.Namespace) -> int:
    """Train SAEs, alone or under torchrun; a signal saves and exits with 128 plus its number."""
    from saesteer.evals.watch import held_out_scorer
    from saesteer.training.distributed import join_world
    from saesteer.training.sae import train_sae as train
    from saesteer.training.signals import watch_signals

    check_json(args)
    config = _config(args)
    with join_world(config.device) as world, watch_signals() as stop:
        with Progress("train sae", quiet=args.quiet) as progress:
            folder = train(
                config,
                args.out,
                resume=args.resume,
                stop=stop,
                progress=progress,
                scorer=held_out_scorer(config),
                world=world,
            )
        if folder is None:
            return _stopped(stop, tell=world.leads)
        if world.leads:
            write_json(args, {"folder": str(folder)})
            print(folder)
    return 0


def train_method(args: argparse.Namespace) -> int:
    """Train a learned method; a signal saves and exits with 128 plus its number."""
    from saesteer.config import TrainMethodConfig, load_config
    from saesteer.errors import ConfigError
    from saesteer.training import train_method as train
    from saesteer.training.signals import watch_signals

    check_json(args)
    device = [f"device={args.device}"] if args.device else []
    config = load_config(TrainMethodConfig, args.config, [*args.overrides, *device])
    only = getattr(args, "only", None)
    if only is not None and config.method_name != only:
        raise ConfigError(
            f"{args.config}: its method is {config.method_name}; for others than {only} use "
            "saesteer train method."
        )
    with watch_signals() as stop:
        with Progress(f"train {config.method_name}", quiet=args.quiet) as progress:
            folder = train(config, args.out, resume=args.resume, stop=stop, progress=progress)
        if folder is None:
            return _stopped(stop)
    write_json(args, {"plan": str(folder)})
    print(folder)
    return 0


def estimate(args: argparse.Namespace) -> None:
    """Print FLOP, bytes, memory, disk and hours of a run."""
    import torch

    from saesteer.models import best_device, load_skeleton
    from saesteer.training.estimate import estimate as cost_of
    from saesteer.training.rates import gpu_rates, measure_rates, settled

    check_json(args)
    config = _config(args, *([] if args.tokens is None else [f"n_tokens={args.tokens}"]))
    if args.gpus is None:
        device = config.device or best_device()
        config = settled(config, device)
        rates = measure_rates(device, getattr(torch, config.dtype))
    else:
        rates = gpu_rates(args.gpu)
    cost = cost_of(config, load_skeleton(config.model), rates, args.gpus or 1)
    write_json(args, cost.to_dict())
    show_table(cost.table())
    if cost.shortage is not None:
        print(f"saesteer: {cost.shortage}", file=sys.stderr)


def sweep(args: argparse.Namespace) -> int:
    """Train a grid of SAEs over one stream, score them, and plot which are worth having."""
    from saesteer.config import parse_grid
    from saesteer.data.text import iterate_texts
    from saesteer.evals.assets import prose
    from saesteer.evals.sae_sweep import sweep_saes, usual_grid
    from saesteer.training.signals import watch_signals

    check_json(args)
    config = _config(args)
    grid = parse_grid(args.grid) if args.grid else usual_grid(config)
    with watch_signals() as stop, Progress("train sweep", quiet=args.quiet) as progress:
        rows = sweep_saes(
            config,
            grid,
            args.out,
            iterate_texts(args.text, args.field) if args.text else prose(),
            max_tokens=args.max_tokens,
            resume=args.resume,
            stop=stop,
            progress=progress,
        )
    if rows is None:
        return _stopped(stop)
    write_json(args, [asdict(row) for row in rows])
    show_table([row.flat() for row in rows])
    print(Path(args.out) / "sweep.html")
    return 0


def _config(args: argparse.Namespace, *more: str) -> TrainSAEConfig:
    """The config file with the overrides of the command line."""
    from saesteer.config import TrainSAEConfig, load_config

    device = [f"device={args.device}"] if args.device else []
    return load_config(TrainSAEConfig, args.config, [*args.overrides, *device, *more])


def _stopped(stop: StopRequest, *, tell: bool = True) -> int:
    number = stop.signal or signal.SIGTERM
    if tell:
        print(
            f"saesteer: stopped by {signal.Signals(number).name} after a checkpoint; go on with "
            "the same command and --resume.",
            file=sys.stderr,
        )
    return 128 + number
