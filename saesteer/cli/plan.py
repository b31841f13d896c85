"""`saesteer plan ...`."""

from __future__ import annotations

import argparse
import functools
import operator
from typing import TYPE_CHECKING, Any

from saesteer.cli.common import DEFAULT_MODEL, check_json, show_table, write_json
from saesteer.errors import ConfigError, OutputError
from saesteer.files import path_of

if TYPE_CHECKING:
    from saesteer.models import Model
    from saesteer.steer import Plan


def check(args: argparse.Namespace) -> None:
    """Whether the edits of plans that run together get in each other's way."""
    from saesteer.steer.interference import check_interference

    check_json(args)
    plan, model = load_for(args.plans, args)
    found = check_interference(plan, model, args.prompt)
    write_json(args, found.to_dict())
    told = found.to_dict()
    for part in ("edits", "pairs", "sites", "weights"):
        show_table(told[part])
        print()
    print("\n".join(found.warnings) or "No edit gets in another's way.")
    if not args.allow_dose:
        found.refuse_absurd()


def show(args: argparse.Namespace) -> None:
    """What a plan does, where, when and how strongly; no model is needed."""
    from saesteer.steer import Plan

    check_json(args)
    plan = Plan.load(args.plan)
    edits = [
        {
            "edit": edit.intervention.describe(),
            "site": str(edit.intervention.site),
            "where": type(edit.where).__name__,
            "gate": type(edit.gate).__name__,
            "schedule": None if edit.schedule is None else str(edit.schedule),
            "strength": plan.strength * edit.strength,
        }
        for edit in plan.edits
    ]
    others = [act.label for act in (*plan.weight_edits, *plan.controls)]
    others += [str(act) for act in plan.prompt_edits]
    told = {"name": plan.name, "strength": plan.strength, "stamp": plan.stamp}
    write_json(args, {**told, "edits": edits, "others": others})
    print(f"{plan.name}, strength {plan.strength:g}, for {plan.stamp or 'any model that fits'}")
    show_table(edits)
    print("\n".join(others))


def convert(args: argparse.Namespace) -> None:
    """Read a plan of any kind and write it as another."""
    from saesteer.models import load_model
    from saesteer.steer import Plan
    from saesteer.steer.checks import check_plan
    from saesteer.steer.exchange import ENDINGS, read_plan, write_plan

    check_json(args)
    target = path_of(args.target, OutputError)
    if target.exists() and not args.force:
        raise OutputError(f"{target} exists; choose another name, or replace it with --force.")
    model = None if args.model is None else load_model(args.model, device=args.device)
    plan = read_plan(args.source, args.site) if args.site else Plan.load(args.source)
    if model is not None:
        check_plan(plan, model)
    notes: tuple[str, ...] = ()
    if target.suffix.lower() in ENDINGS:
        notes = write_plan(plan, target, model)
    else:
        plan.save(target, model)
    write_json(args, {"out": str(target), "edits": len(plan.edits), "notes": list(notes)})
    print("\n".join([f"{target}: {len(plan.edits)} edits", *(f"note: {note}" for note in notes)]))


def push(args: argparse.Namespace) -> None:
    """Upload a plan with a card."""
    from saesteer.steer import Plan
    from saesteer.steer.exchange import Card, push_to_hub

    check_json(args)
    scores = dict(_score(text) for text in args.score)
    card = Card(args.method, args.data, args.dose, scores, args.base_model)
    address = push_to_hub(Plan.load(args.plan), args.repo, card=card, private=args.private)
    write_json(args, {"address": address})
    print(address)


def load_for(refs: list[str], args: argparse.Namespace) -> tuple[Plan, Model]:
    """Plans joined in order, and the model of `--model`, of the first stamp, or the default.

    Raises:
        SaesteerError: as loading either does.
    """
    from saesteer.models import load_model
    from saesteer.steer import Plan
    from saesteer.steer.store import check_made_for

    plans = [Plan.load(ref) for ref in refs]
    name = args.model or plans[0].stamp.get("model") or DEFAULT_MODEL
    model = load_model(name, device=args.device)
    for ref, plan in zip(refs, plans, strict=True):
        check_made_for(plan, ref, model)
    return functools.reduce(operator.add, plans), model


def _score(text: str) -> tuple[str, Any]:
    name, found, value = text.partition("=")
    if not (name and found and value):
        raise ConfigError(f"--score {text!r}: expected NAME=VALUE.")
    try:
        return name, float(value)
    except ValueError:
        return name, value
