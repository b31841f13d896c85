"""`saesteer sae ...`: what it takes."""

from __future__ import annotations

import argparse
from typing import Any

from saesteer.cli.commands import (
    SAE_HELP,
    Parser,
    command,
    count_option,
    group,
    later,
    model_option,
    out_option,
    text_option,
)


def sae_commands(nouns: argparse._SubParsersAction[Parser]) -> None:
    """Score, level, average and find SAEs."""
    verbs = group(nouns, "sae", "Score, level, average and find sparse autoencoders.")
    parser = command(verbs, "eval", later("sae", "evaluate"), "Score an SAE on text.")
    parser.add_argument("sae", help=SAE_HELP)
    _read_on(parser)
    parser.add_argument(
        "--concepts",
        nargs="*",
        action="extend",
        metavar="FILE",
        help="also probe, absorption and perturbation on these contrasts (JSON lines, or a "
        "built-in name; without any, all built-in ones)",
    )
    parser.add_argument(
        "--first-letters", action="store_true", help="also absorption of words' first letters"
    )
    parser.add_argument(
        "--sae-lens", action="store_true", help="also sae-lens's run_evals on the same tokens"
    )
    _made(verbs)
    parser = command(verbs, "path", later("sae", "path"), "Print the folder of an SAE.")
    parser.add_argument("sae", help=SAE_HELP)


def _made(verbs: argparse._SubParsersAction[Parser]) -> None:
    """What makes another SAE of one or several, from text."""
    parser = command(
        verbs,
        "level",
        later("sae", "level"),
        "Give each latent a threshold of its own, so that no kind of text has more latents on.",
    )
    parser.add_argument("sae", help=SAE_HELP)
    _read_on(parser, 50_000, " of each path")
    parser.add_argument(
        "--l0",
        type=float,
        metavar="N",
        help="mean L0 that no path may exceed; default: the mean over the paths as they are",
    )
    out_option(parser)
    parser = command(
        verbs,
        "average",
        later("sae", "average"),
        "The mean of SAEs trained from one start (`init`): better than each, at no cost in use.",
    )
    parser.add_argument("saes", metavar="SAE", nargs="+", help=SAE_HELP)
    _read_on(parser, 50_000, " of each path", told="on it thresholds are set to the mean L0")
    parser.add_argument(
        "--weights",
        type=float,
        nargs="+",
        action="extend",
        metavar="W",
        help="how much each counts; default: equally",
    )
    out_option(parser)


def _read_on(parser: Parser, *tokens: Any, **told: str) -> None:
    """`--model`, `--text` as `text_option` takes it, and `--context`: text to run an SAE on."""
    model_option(parser)
    text_option(parser, *tokens, **told)
    count_option(parser, "--context", 256, "tokens per row")
