"""The commands around plans: `plan`, `steer`, `tune`, and `bench steer`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

from saesteer.cli.commands import (
    Extend,
    Parser,
    command,
    count_option,
    group,
    later,
    out_option,
    positive_int,
)

Nouns: TypeAlias = "argparse._SubParsersAction[Parser]"
_PLAN_HELP = "a saved plan's folder, hub:OWNER/NAME, or a .gguf, .pt or .csv of another library"


def plan_commands(nouns: Nouns) -> None:
    """`plan check`, `plan show`, `plan convert` and `plan push`."""
    verbs = group(nouns, "plan", "Look at plans, and carry them from one library to another.")
    check = command(
        verbs, "check", later("plan", "check"), "Whether a plan's edits get in each other's way."
    )
    check.add_argument("plans", nargs="+", metavar="PLAN", help=_PLAN_HELP)
    check.add_argument("--model", help="default: the one that the first plan was saved for")
    check.add_argument(
        "--prompt", action="append", metavar="TEXT", help="measure on this; may be repeated"
    )
    check.add_argument(
        "--allow-dose", action="store_true", help="let edits be longer than what they edit"
    )
    show = command(verbs, "show", later("plan", "show"), "What a plan does, where and when.")
    show.add_argument("plan", metavar="PLAN", help=_PLAN_HELP)
    convert = command(
        verbs, "convert", later("plan", "convert"), "From one library's file to another's."
    )
    convert.add_argument("source", metavar="IN", help=_PLAN_HELP)
    convert.add_argument(
        "target", metavar="OUT", help="a folder, or a file that ends in .gguf or .pt"
    )
    convert.add_argument("--site", help="where a single vector belongs, such as resid_post.13")
    convert.add_argument("--model", help="check it against this model, and use its modules' names")
    convert.add_argument("--force", action="store_true", help="replace what OUT holds")
    push = command(verbs, "push", later("plan", "push"), "Share a plan on a model hub.")
    push.add_argument("plan", metavar="PLAN", help=_PLAN_HELP)
    push.add_argument("repo", metavar="OWNER/NAME")
    push.add_argument("--method", default="not stated", help="how it was fitted")
    push.add_argument("--data", default="not stated", help="what it was fitted on")
    push.add_argument("--dose", type=float, help="relative dose at which it was scored")
    push.add_argument(
        "--score", action="append", default=[], metavar="NAME=VALUE", help="may be repeated"
    )
    push.add_argument("--base-model", help="the model's name on the hub")
    push.add_argument("--private", action="store_true")


def steer_commands(nouns: Nouns) -> None:
    """`steer run` and `steer chat`."""
    verbs = group(nouns, "steer", "Let a model write under a plan.")
    run = command(verbs, "run", later("steer", "run"), "One prompt, with and without the plan.")
    run.add_argument("--prompt", required=True)
    chat = command(
        verbs, "chat", later("chat", "chat"), "Talk to a model with the plan on and off."
    )
    for parser in (run, chat):
        parser.add_argument("plan", metavar="PLAN", help=_PLAN_HELP)
        parser.add_argument("--model", help="default: the one that the plan was saved for")
        parser.add_argument("--strength", type=float, help="instead of the plan's own")
        count_option(parser, "--max-new-tokens", 60)
        parser.add_argument(
            "--plain", action="store_true", help="a text that goes on, without a chat template"
        )


def tune_command(nouns: Nouns) -> None:
    """`tune`."""
    parser = command(
        nouns, "tune", later("tune", "tune"), "Choose site, settings and strength on validation."
    )
    parser.add_argument("config", help="YAML file, such as configs/tune/politeness.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="change settings")
    parser.add_argument("--resume", action="store_true", help="keep what DIR has measured")
    out_option(parser)


def bench_steer(verbs: argparse._SubParsersAction[Parser]) -> None:
    """`bench steer`."""
    parser = command(verbs, "steer", later("bench", "run"), "What plans add to a decoding step.")
    parser.set_defaults(benchmark="steer")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    count_option(parser, "--steps", 250, "interleaved steps")
    told = "steps that each takes in its turn, behind one that is not timed, as decoding goes; "
    count_option(parser, "--in-a-row", 5, told + "1: that one alone")
    parser.add_argument(
        "--batches",
        type=positive_int,
        nargs="+",
        action=Extend,
        default=[1, 8],
        help="default 1 8",
    )
    dtypes = ("float32", "bfloat16")
    parser.add_argument("--dtypes", nargs="+", action=Extend, choices=dtypes, default=list(dtypes))
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu counts one thread's own time, for a machine shared with others: set "
        "OMP_NUM_THREADS=1 (default wall)",
    )
    parser.add_argument(
        "--against",
        choices=("all", "none"),
        default="all",
        help="the hooks of repeng, steering-vectors and a full encode and decode (default all)",
    )


def bench_methods(verbs: argparse._SubParsersAction[Parser]) -> None:
    """`bench methods`."""
    told = "Every method on the real model, each against random directions: no comparison."
    parser = command(verbs, "methods", later("bench", "run"), told)
    parser.set_defaults(benchmark="every_method")
    parser.add_argument(
        "--methods", nargs="+", action="extend", metavar="NAME", help="default: all of them"
    )
    count_option(parser, "--prompts", None, "default: all of a task's")
    parser.add_argument(
        "--dose", type=float, help="relative dose of methods with a strength; default: strength 1"
    )
    parser.add_argument(
        "--split", choices=("validation", "test"), default="validation", help="whose prompts"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the model"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="rows there of the same settings are kept"
    )
