"""The command line: parses, validates, calls; computes nothing, and imports nothing heavy to start.

A user's mistake is one line on stderr and exit status 2; a traceback is always a fault of ours.
Results go to stdout (or `--json FILE`), progress to stderr.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from saesteer.errors import SaesteerError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status.

    0 done, 2 wrong input, 130 and 143 stopped by a signal.
    """
    from saesteer.cli.parser import build_parser

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # else every retry without a network is told
    args = parse(build_parser(), argv)
    try:
        return int(args.run(args) or 0)
    except SaesteerError as error:
        print(f"saesteer: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("saesteer: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parse(parser: ArgumentParser, argv: Sequence[str] | None) -> Namespace:
    """Arguments, with `key.path=value` overrides taken from wherever they stand."""
    args, rest = parser.parse_known_args(argv)
    strange = [text for text in rest if text.startswith("-") or "=" not in text]
    if strange or (rest and not hasattr(args, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(strange or rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


__all__ = ["main"]
