"""`saesteer compare` and `saesteer quickstart`."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from saesteer.cli.common import Progress, check_json, check_out, show_table, wandb_run, write_json

_SHOWN = (
    "task",
    "method",
    "relative_dose",
    "effect",
    "effect_ci",
    "kl",
    "perplexity",
    "distinct_2",
)
_ANSWERED = (
    "method",
    "accuracy",
    "accuracy_ci",
    "balanced_accuracy",
    "over_refusal",
    "verdict_accuracy",
    "accuracy_among_options",
    "n_problems",
)


def compare(args: argparse.Namespace) -> None:
    """Compare methods as a config says, and write the page."""
    from dataclasses import replace

    from saesteer.config import CompareConfig, load_config, read_yaml
    from saesteer.evals.build import run_config
    from saesteer.evals.report import write_report

    check_json(args)
    if "task" in read_yaml(args.config):
        answer(args)
        return
    config = load_config(CompareConfig, args.config, args.overrides)
    if args.device:
        config = replace(config, device=args.device)
    check_out(args.out)
    with ExitStack() as stack:
        tracker = stack.enter_context(wandb_run(config, args.out))
        results = run_config(
            config, reproduce=_again(args), progress=_bars(args, stack), tracker=tracker
        )
    page = write_report(results, args.out)
    write_json(args, results)
    _show(results, page)


def answer(args: argparse.Namespace) -> None:
    """Compare ways to answer problems as a config says, and write the page."""
    from dataclasses import replace

    from saesteer.config import AnswerConfig, load_config
    from saesteer.evals.answer_rows import answers_page
    from saesteer.evals.answers import run_answers
    from saesteer.evals.report import write_report

    config = load_config(AnswerConfig, args.config, args.overrides)
    if args.device:
        config = replace(config, device=args.device)
    check_out(args.out)
    with ExitStack() as stack:
        bar = _bars(args, stack)(config.task.kind)
        results = run_answers(config, reproduce=_again(args), progress=bar)
    page = write_report(results, args.out, answers_page)
    write_json(args, results)
    rows = results["compare"]
    shown = [key for key in _ANSWERED if any(key in row for row in rows)]
    show_table([{key: row.get(key) for key in shown} for row in rows])
    print(f"\n{page}  ({results['seconds']:.0f} s)")


def quickstart(args: argparse.Namespace) -> None:
    """Run the quickstart and say where its page is."""
    from saesteer.evals.quickstart import quickstart as run

    check_json(args)
    check_out(args.out)
    with ExitStack() as stack:
        results = run(args.out, device=args.device, progress=_bars(args, stack))
    write_json(args, results)
    _show(results, Path(args.out) / "report.html")


def _again(args: argparse.Namespace) -> str:
    """The command that was given, as a shell takes it, for a folder of one's own."""
    device = ["--device", args.device] if args.device else []
    given = ["saesteer", "compare", args.config, *args.overrides, *device]
    return f"{shlex.join(given)} --out DIR"


def _bars(args: argparse.Namespace, stack: ExitStack) -> Callable[[str], Any]:
    """What begins a bar by its title, and closes the one before it: a terminal draws one alone."""
    shown = stack.enter_context(ExitStack())

    def begin(title: str) -> Progress:
        shown.close()
        return shown.enter_context(Progress(title, quiet=args.quiet))

    return begin


def _show(results: dict[str, Any], page: Path) -> None:
    show_table([{key: row.get(key) for key in _SHOWN} for row in results["compare"]])
    print(f"\n{page}  ({results['seconds']:.0f} s)")
