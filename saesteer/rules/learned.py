"""Rules learned from labelled prompts: concepts read, thresholds set, rule sets found and scored.

Concepts are those of folders that `saesteer concepts fit` wrote, or single features that tell the
labels apart on the train texts. They are read over the prompt by the gate that runs them, so a
rule set does on new prompts what it did here. Beside it are scored a linear probe on the
activations and a decision tree over latents, fitted on the same texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saesteer.data.concept_data import ConceptData
from saesteer.data.contrast import SPLITS, Contrast, Split
from saesteer.errors import ContrastError
from saesteer.features.concept_store import MANIFEST, load_concept
from saesteer.features.concept_train import FitSettings, SplitScores, fit_concepts
from saesteer.features.concepts import Concept, FeatureReadout, Over
from saesteer.features.find import find_features
from saesteer.features.thresholds import choose_threshold
from saesteer.metrics.intervals import share_interval
from saesteer.models import Model
from saesteer.rules.book import RuleBook
from saesteer.rules.learn import Bounds, Table, learn_rules, predict, size
from saesteer.rules.terms import Atom, Program
from saesteer.saes.sae import SAE

Tell = Callable[[int, int, str], None]


@final
@dataclass(frozen=True, eq=False)
class Learned:
    """The rules for one label, the concepts that they read, and everybody's scores by split."""

    head: str
    program: Program
    concepts: tuple[Concept, ...]
    scores: Mapping[str, Mapping[str, dict[str, Any]]]

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "head": self.head,
            "rules": [str(rule) for rule in self.program.rules],
            "size": size(self.program),
            "concepts": {c.name: str(c.readout) for c in self.concepts},
            "scores": {name: dict(splits) for name, splits in self.scores.items()},
        }


def learn(
    model: Model,
    sae: SAE,
    contrast: Contrast,
    head: str,
    concepts: Sequence[Concept] = (),
    *,
    n_features: int = 16,
    over: Over = "max",
    bounds: Bounds | None = None,
    seed: int = 0,
    tell: Tell = lambda *_: None,
) -> Learned:
    """Rules for `head`, true in the contrast's positive texts.

    Args:
        concepts: what rules may be about; by default `n_features` features of either side.

    Raises:
        ContrastError: texts of one label only in a split, texts with a prefix, or no rule found.
        RuleError: a head that can't stand in a rule.
    """
    goal = Atom.parse(head)
    if any(example.prompt for example in contrast.examples):
        raise ContrastError(
            f"{contrast.name}: rules are learned from whole prompts, got texts with a prefix; "
            "put it into the text."
        )
    labels = torch.tensor([example.label == 1 for example in contrast.examples])
    given = bool(concepts)
    concepts = concepts or _features(model, sae, contrast, n_features, over)
    scores = _read(model, sae, contrast, concepts, tell)
    rows = {split: _rows(contrast, labels, split) for split in SPLITS}
    if not given:
        concepts = _with_thresholds(concepts, scores[rows["train"]], labels[rows["train"]])
    truths = scores > torch.tensor([concept.threshold for concept in concepts])
    tables = {split: Table(truths[at], labels[at]) for split, at in rows.items()}
    names = [Atom.parse(concept.name) for concept in concepts]
    program = learn_rules(goal, names, tables["train"], tables["validation"], bounds, seed)
    told = {s: _scored(predict(program, names, t), t.labels) for s, t in tables.items()}
    used = tuple(c for c in concepts if Atom.parse(c.name) in program.atoms)
    return Learned(head, program, used, {"rules": told, **_others(model, sae, contrast, seed)})


def folder_concepts(folder: Path, model: Model, sae: SAE) -> dict[str, Concept]:
    """The concepts kept in a folder, by the folder of each, taken over the prompt.

    Raises:
        ContrastError: there are none.
        ConfigError, SaeError: a damaged one, or one for another model or SAE.
    """
    found = sorted(path.parent for path in folder.glob(f"**/{MANIFEST}"))
    if not found:
        raise ContrastError(f"{folder} holds no concept; make some with saesteer concepts fit.")
    read = {str(path): load_concept(path, sae=sae, model=model) for path in found}
    return {
        path: c if c.aggregate == "prompt" else replace(c, aggregate="prompt", over="max")
        for path, c in read.items()
    }


def _features(
    model: Model, sae: SAE, contrast: Contrast, n: int, over: Over
) -> tuple[Concept, ...]:
    """The features that speak most for the label, and most against it."""
    turned = tuple(replace(e, label=1 - e.label) for e in contrast.examples)
    pool = "max" if over == "max" else "mean"
    found = [
        feature.index
        for side in (contrast, Contrast(turned, contrast.name))
        for feature in find_features(model, sae, side, top=n, pool=pool)
        if feature.effect_size > 0
    ]
    if not found:
        raise ContrastError(f"{contrast.name}: no feature tells its labels apart.")
    readouts = {index: FeatureReadout((index,)) for index in found}
    return tuple(
        Concept(f"f{index}", readout, 0.0, "prompt", over) for index, readout in readouts.items()
    )


def _read(
    model: Model, sae: SAE, contrast: Contrast, concepts: Sequence[Concept], tell: Tell
) -> Float[Tensor, "texts concepts"]:
    """Every concept's score at the end of every text, as a rule's gate reads it."""
    book, rows = RuleBook(Program(()), tuple(concepts)), []
    for done, example in enumerate(contrast.examples, 1):
        rows.append(book.evaluate(model, sae, example.text).evidence.scores[0, -1].float())
        tell(done, len(contrast.examples), "read")
    return torch.stack(rows).cpu()


def _rows(contrast: Contrast, labels: Tensor, split: Split) -> Tensor:
    at = torch.tensor([i for i, e in enumerate(contrast.examples) if e.split == split]).long()
    if len(set(labels[at].tolist())) < 2:
        raise ContrastError(
            f"{contrast.name} has {len(at)} texts of one label in the {split} split; give texts "
            "with and without the label in train, validation and test."
        )
    return at


def _with_thresholds(
    concepts: Sequence[Concept], scores: Tensor, labels: Tensor
) -> tuple[Concept, ...]:
    """Each cut where it parts the labels best, whichever side is above."""
    cuts = []
    for column in range(len(concepts)):
        own = scores[:, column]
        higher = bool(own[labels].mean() >= own[~labels].mean())
        cuts.append(choose_threshold(own, labels if higher else ~labels))
    return tuple(replace(c, threshold=round(t, 4)) for c, t in zip(concepts, cuts, strict=True))


def _scored(predicted: Bool[Tensor, " n"], labels: Bool[Tensor, " n"]) -> dict[str, Any]:
    hits, n_pos = (predicted & labels).sum(), labels.sum()
    false, n_neg = (predicted & ~labels).sum(), (~labels).sum()
    return _row(int(hits), int(n_pos), int(false), int(n_neg))


def _row(hits: int, n_pos: int, false: int, n_neg: int) -> dict[str, Any]:
    right = hits + n_neg - false
    found = share_interval([True] * right + [False] * (n_pos + n_neg - right))
    return {
        "accuracy": found.mean,
        "accuracy_ci": [found.low, found.high],
        "balanced_accuracy": (hits / n_pos + 1 - false / n_neg) / 2,
        "n": n_pos + n_neg,
    }


def _others(model: Model, sae: SAE, contrast: Contrast, seed: int) -> dict[str, Any]:
    """A linear probe and a tree on the same texts, thresholds chosen on validation."""
    data = ConceptData("label", contrast.examples)
    fitted = fit_concepts(model, sae, [data], FitSettings(("probe", "tree"), seed=seed))["label"]
    return {one.kind: {s: _of(one.scores[s]) for s in SPLITS} for one in fitted}


def _of(scores: SplitScores) -> dict[str, Any]:
    n_pos, n_neg = scores.n_positive, scores.n_negative
    return _row(round(scores.recall * n_pos), n_pos, round(scores.fall_out * n_neg), n_neg)
