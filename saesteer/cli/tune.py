"""`saesteer tune`."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from saesteer.cli.common import Progress, check_json, check_out, show_table, wandb_run, write_json
from saesteer.errors import TaskError


def tune(args: argparse.Namespace) -> None:
    """Choose on validation as a config says; leaves `results.json`, the config and the plan.

    Raises:
        TaskError: nothing that was tried keeps within the budget.
    """
    from dataclasses import replace

    from saesteer.config import TuneConfig, dump_config, load_config
    from saesteer.evals.tune import tune as run
    from saesteer.files import json_text, write_text

    check_json(args)
    config = load_config(TuneConfig, args.config, args.overrides)
    config = replace(config, device=args.device) if args.device else config
    check_out(args.out)
    out = Path(args.out)
    write_text(out / "config.resolved.yaml", dump_config(config))
    with ExitStack() as stack:
        tracker = stack.enter_context(wandb_run(config, out))
        progress = stack.enter_context(Progress("tune", quiet=args.quiet))
        found = run(config, out, resume=args.resume, progress=progress, tracker=tracker)
    write_text(out / "results.json", json_text(found.results) + "\n")
    write_json(args, found.results)
    show_table([_row(row) for row in found.results["tried"]])
    if found.plan is None:
        budget, earlier = config.budget, out / "plan"
        raise TaskError(
            f"nothing keeps within {budget.of} of {budget.at_most:g}; allow more (budget.at_most), "
            "or try smaller doses."
            + (f" {earlier} is an earlier run's." if earlier.exists() else "")
        )
    found.plan.save(out / "plan", found.model)
    chosen, n_tried = found.results["chosen"], found.results["chosen"]["n_candidates"]
    print(f"\n{out / 'plan'}: {chosen['candidate']}{_dose(chosen)}, the best of {n_tried}")
    if chosen["at_largest_dose"]:
        print(
            f"The largest dose asked for keeps within {config.budget.of} of "
            f"{config.budget.at_most:g}; larger ones (doses=[...]) may do more."
        )


def _dose(chosen: dict[str, Any]) -> str:
    """How strong the chosen plan is; a plan without a strength to choose has none to tell."""
    if chosen["dose"] is None:
        return ""
    return f" at dose {chosen['dose']:g} (strength {chosen['strength']:.3g})"


def _row(row: dict[str, Any]) -> dict[str, Any]:
    keys = ("dose", "relative_dose", "effect", "effect_ci", "kl", "perplexity")
    point = {} if row["chosen"] is None else row["points"][row["chosen"]]
    return {"candidate": row["candidate"], **{key: point.get(key) for key in keys}}
