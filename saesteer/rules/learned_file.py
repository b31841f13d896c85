"""Learned rules as a rule file, which `rules check` accepts and a person can go on with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saesteer.features.concepts import Concept, FeatureReadout
from saesteer.files import write_text
from saesteer.rules.book import RuleBook
from saesteer.rules.learned import Learned
from saesteer.saes.sae import SAE


def write_rules(
    learned: Learned, path: Path, sae_ref: str, sae: SAE, folders: Mapping[str, str]
) -> None:
    """Write a rule file whose head reports where it holds, and read it back.

    Args:
        sae_ref: how the file names the SAE.
        folders: the folder of each concept that has one, as seen from the file's own.

    Raises:
        OutputError: the file can't be written.
    """
    test = learned.scores["rules"]["test"]
    low, high = test["accuracy_ci"]
    rules = "".join(f"  {rule}\n" for rule in learned.program.rules)
    concepts = "".join(f"  {_concept(c, folders)}\n" for c in learned.concepts)
    write_text(
        path,
        f"# saesteer rules explain {path.name} --prompt TEXT\n#\n"
        f"# Learned by saesteer rules learn: {test['accuracy']:.1%} of {test['n']} test texts are "
        f"told right\n# (95 % interval {low:.1%} to {high:.1%}). What the head does is yours to "
        f"write under acts.\nsae: {_quoted(sae_ref)}\nconcepts:\n{concepts}rules: |\n{rules}"
        f"acts:\n  {learned.head}: {{report: {_quoted(learned.head)}}}\n",
    )
    RuleBook.read(path).plan(sae)


def _concept(concept: Concept, folders: Mapping[str, str]) -> str:
    fields: dict[str, Any] = {}
    match concept.readout:
        case _ if concept.name in folders:
            fields["concept"] = folders[concept.name]
        case FeatureReadout(features=(feature,), weights=(1.0,)):
            fields |= {"feature": feature}
        case other:
            raise AssertionError(f"{other} has neither a folder nor one feature")
    fields |= {"threshold": concept.threshold, "aggregate": "prompt", "over": concept.over}
    told = ", ".join(f"{key}: {_quoted(value)}" for key, value in fields.items())
    return f"{concept.name}: {{{told}}}"


def _quoted(value: object) -> str:
    import json

    return json.dumps(value)
