"""`saesteer rules learn`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saesteer.cli.common import Progress, check_json, load_pair, show_table, write_json

if TYPE_CHECKING:
    from saesteer.rules.learned import Learned


def learn(args: argparse.Namespace) -> None:
    """Learn rules for every label, and keep a rule file for each with its scores."""
    from saesteer.data.label_sets import read_label_sets
    from saesteer.files import json_text, write_text
    from saesteer.rules.learn import Bounds
    from saesteer.rules.learned import folder_concepts
    from saesteer.rules.learned import learn as learn_label
    from saesteer.rules.learned_file import write_rules
    from saesteer.rules.terms import check_name

    check_json(args)
    bounds = Bounds(args.literals, args.rules)
    sets = {
        check_name(name): found for name, found in read_label_sets(args.data, args.seed).items()
    }
    model, sae = load_pair(args)
    out = Path(args.out)
    kept = folder_concepts(Path(args.concepts), model, sae) if args.concepts else {}
    folders = {concept.name: os.path.relpath(path, out) for path, concept in kept.items()}
    ref = str(Path(args.sae).resolve()) if Path(args.sae).exists() else args.sae
    learned: list[Learned] = []
    with Progress("rules learn", quiet=args.quiet) as progress:
        for head, contrast in sets.items():
            given = tuple(kept.values())
            options = {"n_features": args.n_features, "over": args.over, "bounds": bounds}
            found = learn_label(
                model, sae, contrast, head, given, seed=args.seed, tell=progress, **options
            )
            write_rules(found, out / f"{head}.yaml", ref, sae, folders)
            learned.append(found)
    result = {one.head: one.as_dict() for one in learned}
    write_text(out / "results.json", json_text(result) + "\n")
    write_json(args, result)
    for one in learned:
        print(str(one.program))
    show_table([row for one in learned for row in _table(one)])
    print(f"\n{args.out}")


def _table(learned: Learned) -> list[dict[str, Any]]:
    return [
        {
            "label": learned.head,
            "reader": name,
            "validation": splits["validation"]["accuracy"],
            "test": splits["test"]["accuracy"],
            "95 %": splits["test"]["accuracy_ci"],
            "balanced": splits["test"]["balanced_accuracy"],
            "texts": splits["test"]["n"],
        }
        for name, splits in learned.scores.items()
    ]
