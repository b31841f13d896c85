"""Options of `saesteer rules learn`; nothing here imports torch."""

from __future__ import annotations

import argparse

from saesteer.cli.commands import Parser, command, count_option, later, model_option, out_option


def learn_command(verbs: argparse._SubParsersAction[Parser]) -> None:
    """`rules learn`."""
    learn = command(
        verbs,
        "learn",
        later("learn", "learn"),
        "Small readable rule sets from labelled prompts, beside a probe and a tree.",
    )
    learn.add_argument(
        "data",
        help='JSON lines of {"text", "label": 1|0} or {"text", "labels": [NAME, ...]}, or a '
        "built-in contrast; one rule file is written for each label",
    )
    learn.add_argument("--sae", default="smollm2-135m-instruct/resid_post.9", help="whose features")
    learn.add_argument(
        "--concepts",
        metavar="DIR",
        help="what rules may be about: folders of saesteer concepts fit; default: single features "
        "that tell the train texts apart",
    )
    count_option(learn, "--n-features", 16, "of either side")
    learn.add_argument(
        "--over",
        choices=("max", "mean", "last"),
        default="max",
        help="tokens of the prompt that a feature is taken over (default max)",
    )
    count_option(learn, "--literals", 3, "most in a body")
    count_option(learn, "--rules", 4, "most for a label")
    learn.add_argument("--seed", type=int, default=0)
    model_option(learn)
    out_option(learn)
