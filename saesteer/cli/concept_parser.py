"""Options of `saesteer concepts`; nothing here imports torch."""

from __future__ import annotations

import argparse

from saesteer.cli.commands import (
    Extend,
    Parser,
    command,
    count_option,
    group,
    later,
    model_option,
    out_option,
)

_KINDS = ("feature", "features", "tree", "cosine", "probe")


def concept_commands(nouns: argparse._SubParsersAction[Parser]) -> None:
    """`concepts fit`."""
    verbs = group(nouns, "concepts", "Concepts for rules, made from labelled texts.")
    fit = command(
        verbs, "fit", later("concepts", "fit"), "Fit concepts to labelled texts and score them."
    )
    fit.add_argument(
        "data",
        help="JSON lines, a folder with a file or folder for each concept, or a YAML of "
        "{concept: file or folder}",
    )
    fit.add_argument("--sae", default="smollm2-135m-instruct/resid_post.9", help="whose features")
    fit.add_argument(
        "--readout",
        nargs="+",
        action=Extend,
        choices=_KINDS,
        default=list(_KINDS),
        help="kinds to try; the most readable of the best is kept (default: all)",
    )
    count_option(fit, "--n-features", 16)
    fit.add_argument(
        "--threshold",
        default="balanced_accuracy",
        metavar="AIM",
        help="balanced_accuracy (default), f1, false_positives, or a number",
    )
    fit.add_argument(
        "--budget",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of false positives, for that aim (default 0.01)",
    )
    fit.add_argument(
        "--over",
        choices=("mean", "max", "last"),
        default="mean",
        help="tokens that a labelled text's score is taken over (default mean)",
    )
    fit.add_argument("--seed", type=int, default=0)
    model_option(fit)
    out_option(fit)
