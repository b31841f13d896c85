"""`saesteer concepts ...`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from saesteer.cli.common import Progress, check_json, load_pair, show_table, write_json
from saesteer.errors import ConfigError

if TYPE_CHECKING:
    from saesteer.features.concept_train import FitSettings, FittedConcept


def fit(args: argparse.Namespace) -> None:
    """Fit concepts to labelled texts and keep the best readout of each in a folder."""
    from saesteer.data.concept_data import read_concept_data
    from saesteer.features.concept_store import save_concept
    from saesteer.features.concept_train import best_of, fit_concepts
    from saesteer.files import json_text, write_text

    check_json(args)
    settings = _settings(args)
    data = read_concept_data(args.data, args.seed)
    folders = [Path(args.out) / _folder_name(one.name) for one in data]
    model, sae = load_pair(args)
    with Progress("concepts fit", quiet=args.quiet) as progress:
        found = fit_concepts(model, sae, data, settings, progress)
    for folder, fitted in zip(folders, found.values(), strict=True):
        save_concept(best_of(fitted), folder, model, sae)
    result = {name: _results(fitted, best_of(fitted)) for name, fitted in found.items()}
    write_text(Path(args.out) / "results.json", json_text(result) + "\n")
    write_json(args, result)
    show_table([_row(name, row) for name, rows in result.items() for row in rows])
    print(f"\n{args.out}")


def _settings(args: argparse.Namespace) -> FitSettings:
    from saesteer.features.concept_train import FitSettings
    from saesteer.features.thresholds import Aim

    aim: Any = args.threshold
    if aim not in get_args(Aim):
        try:
            aim = float(aim)
        except ValueError:
            known = ", ".join(get_args(Aim))
            raise ConfigError(f"--threshold {aim} is none of {known} or a number.") from None
    kinds, pool, n = tuple(dict.fromkeys(args.readout)), args.over, args.n_features
    return FitSettings(kinds, n, aim, args.budget, pool, args.seed)


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[\w][\w. -]*", name):
        raise ConfigError(f"concept {name!r} can't name a folder; use letters, digits and '_'.")
    return name


def _results(fitted: Sequence[FittedConcept], best: FittedConcept) -> list[dict[str, Any]]:
    return [
        {
            "readout": one.kind,
            "reads": str(one.concept.readout),
            "threshold": one.concept.threshold,
            "chosen": one is best,
            "scores": {split: scores.to_dict() for split, scores in one.scores.items()},
        }
        for one in fitted
    ]


def _row(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    test = row["scores"]["test"]
    return {
        "concept": f"{name} *" if row["chosen"] else name,
        "readout": row["readout"],
        "threshold": row["threshold"],
        "AUROC validation": row["scores"]["validation"]["auroc"],
        "AUROC test": test["auroc"],
        "95 %": test["auroc_ci"],
        "balanced": test["balanced_accuracy"],
        "F1": test["f1"],
        "false positives": test["false_positive_rate"],
    }
