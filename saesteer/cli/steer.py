"""`saesteer steer run`: one prompt, with and without a plan."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from saesteer.cli.common import check_json, write_json
from saesteer.cli.plan import load_for

if TYPE_CHECKING:
    from saesteer.models import Model
    from saesteer.steer import Plan


def run(args: argparse.Namespace) -> None:
    """What the model writes either way, and what the plan did."""
    check_json(args)
    plan, model = load_steered(args)
    prompt = args.prompt if args.plain else model.as_prompt(args.prompt)
    unsteered = model.generate(prompt, max_new_tokens=args.max_new_tokens)
    with plan.on(model) as trace:
        steered = model.generate(prompt, max_new_tokens=args.max_new_tokens)
    result = {"unsteered": unsteered, "steered": steered, "trace": trace.summary()}
    write_json(args, result)
    print(f"unsteered: {unsteered}\nsteered:   {steered}")
    print(f"\n{trace.n_edited} positions edited, relative dose {trace.dose():.3g}")


def load_steered(args: argparse.Namespace) -> tuple[Plan, Model]:
    """The plan at the strength that was asked for, and its model."""
    plan, model = load_for([args.plan], args)
    return (plan if args.strength is None else plan.with_strength(args.strength)), model
