"""`saesteer train ...`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from saesteer.cli.common import Progress, check_json, write_json


def train_sae(args: argparse.Namespace) -> int:
    """Train SAEs, alone or under torchrun; a signal saves and exits with 128 plus its number."""
    from dataclasses import replace

    from saesteer.config import TrainSAEConfig, load_config
    from saesteer.training.distributed import join_world
    from saesteer.training.sae import train_sae as train
    from saesteer.training.signals import watch_signals

    check_json(args)
    config = load_config(TrainSAEConfig, args.config, args.overrides)
    if args.device:
        config = replace(config, device=args.device)
    with join_world(config.device) as world, watch_signals() as stop:
        with Progress("train sae", quiet=args.quiet) as progress:
            folder = train(
                config, args.out, resume=args.resume, stop=stop, progress=progress, world=world
            )
        if world.leads:
            _report(args, folder, stop.signal)
    return 0 if folder is not None else 128 + (stop.signal or signal.SIGTERM)


def _report(args: argparse.Namespace, folder: Path | None, number: int | None) -> None:
    if folder is None:
        name = signal.Signals(number or signal.SIGTERM).name
        print(
            f"saesteer: stopped by {name} after a checkpoint; go on with the same command and "
            "--resume.",
            file=sys.stderr,
        )
        return
    write_json(args, {"folder": str(folder)})
    print(folder)
