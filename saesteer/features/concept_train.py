"""Concepts from labelled texts: readouts of several kinds, thresholds, confidences and scores.

A readout is fitted on the train texts, its threshold and its confidence on the validation texts,
and the test texts are read once. Scores are computed as a rule computes them: token by token by the
reader that runs in a plan, then over the prompt where whole texts are labelled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saesteer.data.concept_data import ConceptData
from saesteer.data.contrast import SPLITS, Split
from saesteer.features.concept_rows import ConceptRows, Pooling, read_rows, read_texts
from saesteer.features.concepts import Concept, concept_readers
from saesteer.features.fitting import SPARSE_KINDS, ReadoutKind, fit_readout
from saesteer.features.negatives import add_negatives
from saesteer.features.readouts import FeatureReadout, Readout
from saesteer.features.sparse_rows import SparseRows
from saesteer.features.thresholds import Aim, calibrate, choose_threshold
from saesteer.features.trees import TreeReadout
from saesteer.metrics.intervals import Interval, auroc_interval, grouped_auroc_interval
from saesteer.models import Model
from saesteer.saes.sae import SAE

KINDS: tuple[ReadoutKind, ...] = get_args(ReadoutKind)
"""From the most readable to the least."""
NEARLY = 0.01
"""AUROC on validation that a more readable kind may be worse by and still be preferred."""


@final
@dataclass(frozen=True)
class FitSettings:
    """How concepts are fitted.

    Attributes:
        kinds: of readout, each tried.
        n_features: of the weighted readout and the tree.
        aim: what the threshold serves, or the threshold itself.
        budget: share of negatives above the threshold, for the aim `false_positives`.
        pool: over which of a text's tokens a whole text's score is taken.
        seed: of splits, negatives and fits.
    """

    kinds: tuple[ReadoutKind, ...] = KINDS
    n_features: int = 16
    aim: Aim | float = "balanced_accuracy"
    budget: float = 0.01
    pool: Pooling = "mean"
    seed: int = 0


@final
@dataclass(frozen=True)
class SplitScores:
    """How a concept does on one split; rows are tokens where tokens are labelled, else texts.

    Attributes:
        auroc: of its scores, with an interval over texts.
        fall_out: share of the negatives above the threshold.
    """

    n_positive: int
    n_negative: int
    auroc: Interval
    recall: float
    fall_out: float
    f1: float

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the shares of positives and negatives told right."""
        return (self.recall + 1 - self.fall_out) / 2

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "n_positive": self.n_positive,
            "n_negative": self.n_negative,
            "auroc": self.auroc.mean,
            "auroc_ci": [self.auroc.low, self.auroc.high],
            "balanced_accuracy": self.balanced_accuracy,
            "f1": self.f1,
            "recall": self.recall,
            "false_positive_rate": self.fall_out,
        }


@final
@dataclass(frozen=True, eq=False)
class FittedConcept:
    """A concept and how good it is; `sigmoid(slope · score + offset)` is its confidence."""

    kind: ReadoutKind
    concept: Concept
    slope: float
    offset: float
    scores: Mapping[Split, SplitScores]

    def confidence(self, scores: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """The share of positives that rows of such scores have."""
        return torch.sigmoid(self.slope * scores + self.offset)


def fit_concepts(
    model: Model,
    sae: SAE,
    data: Sequence[ConceptData],
    settings: FitSettings | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, list[FittedConcept]]:
    """Every kind of readout for every concept, by concept.

    Raises:
        ContrastError: texts of one label only in a split.
        ConfigError: an unknown kind, or an aim or budget that is none.
        DataError: a text without tokens, or longer than the model can read.
    """
    settings, tell = settings or FitSettings(), progress or (lambda *_: None)
    tell(0, len(data) + 1, "read")
    sae, site = sae.to(device="cpu"), sae.site
    seen = read_texts(model, [e for one in data for e in one.examples], site)
    found: dict[str, list[FittedConcept]] = {}
    for n, one in enumerate(data, 1):
        if one.needs_negatives:
            others = [other for other in data if other is not one]
            one = add_negatives(one, others, seen, settings.seed)
        rows = read_rows(model, one, site, settings.pool, seen)
        found[one.name] = [_fit(kind, rows, sae, settings) for kind in settings.kinds]
        tell(n + 1, len(data) + 1, one.name)
    return found


def best_of(fitted: Sequence[FittedConcept]) -> FittedConcept:
    """The most readable kind whose validation AUROC is within `NEARLY` of the best."""
    best = max(one.scores["validation"].auroc.mean for one in fitted)
    good = [one for one in fitted if one.scores["validation"].auroc.mean >= best - NEARLY]
    return min(good, key=lambda one: KINDS.index(one.kind))


def _fit(kind: ReadoutKind, rows: ConceptRows, sae: SAE, settings: FitSettings) -> FittedConcept:
    labels = {split: rows.labels(split) for split in SPLITS}
    sparse = kind in SPARSE_KINDS
    readout = (_sparse if sparse else _dense)(kind, rows, sae, settings)
    concept = Concept(
        rows.name,
        readout,
        0.0,
        "token" if rows.pool is None else "prompt",
        rows.pool or "max",
        sae=sae.fingerprint() if sparse else "",
    )
    scores = {split: _scores(concept, rows, sae, split) for split in SPLITS}
    chosen, held = scores["validation"], labels["validation"]
    aim = settings.aim
    threshold = (
        choose_threshold(chosen, held, aim, settings.budget) if isinstance(aim, str) else aim
    )
    slope, offset = calibrate(chosen, held)
    judged: dict[Split, SplitScores] = {
        s: _judge(rows, s, scores[s], labels[s], threshold) for s in SPLITS
    }
    return FittedConcept(kind, replace(concept, threshold=threshold), slope, offset, judged)


def _dense(kind: ReadoutKind, rows: ConceptRows, sae: SAE, settings: FitSettings) -> Readout:
    train = rows.pooled([rows.resid[index] for index in rows.chosen("train")])
    return fit_readout(kind, train, rows.labels("train"), sae.site, seed=settings.seed)


def _sparse(kind: ReadoutKind, rows: ConceptRows, sae: SAE, settings: FitSettings) -> Readout:
    """A readout over the features that separate the rows best, in the SAE's own numbering.

    A tree is fitted on tokens, each with its text's label, since tokens are what it reads.
    """
    labels = rows.labels("train")
    tokens = kind == "tree"
    if tokens and rows.pool is not None:
        lengths = torch.tensor([len(rows.resid[index]) for index in rows.chosen("train")])
        labels = labels.repeat_interleave(lengths)
    latents = _latents(rows, sae, tokens=tokens)
    features = _separating(latents, labels, sae.d_sae, kind, settings.n_features)
    picks = torch.zeros(sae.d_sae, len(features))
    picks[features, range(len(features))] = 1.0
    narrow = latents.times(picks)
    n, seed = settings.n_features, settings.seed
    found = fit_readout(kind, narrow, labels, sae.site, n_features=n, seed=seed)
    assert isinstance(found, FeatureReadout | TreeReadout), "sparse kinds read features"
    return replace(found, features=tuple(features[column] for column in found.features))


def _latents(rows: ConceptRows, sae: SAE, *, tokens: bool) -> SparseRows:
    """Latents of the train texts' tokens, or of the rows that these make."""
    whole = replace(rows, pool=None) if tokens else rows
    texts = [rows.resid[index] for index in rows.chosen("train")]
    return SparseRows.join([SparseRows.of(whole.pooled([sae.encode(text)])) for text in texts])


def _separating(
    latents: SparseRows, positive: Bool[Tensor, " rows"], d_sae: int, kind: ReadoutKind, n: int
) -> list[int]:
    """The features of largest |Cohen's d|; for a single one the largest d."""
    groups = [latents.rows(positive), latents.rows(~positive)]
    (mean, spread), (other, other_spread) = (group.moments(d_sae) for group in groups)
    squares = sum(
        s.double() ** 2 * len(g) for s, g in zip((spread, other_spread), groups, strict=True)
    )
    pooled = (torch.as_tensor(squares) / max(len(latents) - 2, 1)).sqrt()
    distance = torch.where(pooled > 0, (mean - other) / pooled, 0.0)
    distance = distance if kind == "feature" else distance.abs()
    return distance.topk(1 if kind == "feature" else min(n, d_sae)).indices.tolist()


def _scores(concept: Concept, rows: ConceptRows, sae: SAE, split: Split) -> Tensor:
    (reader,) = concept_readers([concept], sae)
    texts = [rows.resid[index] for index in rows.chosen(split)]
    return rows.pooled([reader.scores(text[None])[0, :, 0] for text in texts])


def _judge(
    rows: ConceptRows, split: Split, scores: Tensor, positive: Tensor, threshold: float
) -> SplitScores:
    above = scores > threshold
    hits, n_pos = int((above & positive).sum()), int(positive.sum())
    false, n_neg = int((above & ~positive).sum()), int((~positive).sum())
    values, labels = scores.numpy(), positive.numpy()
    area = (
        grouped_auroc_interval(values, labels, rows.groups(split).numpy())
        if rows.pool is None
        else auroc_interval(values, labels)
    )
    f1 = 2 * hits / (hits + false + n_pos)
    return SplitScores(n_pos, n_neg, area, hits / n_pos, false / n_neg, f1)
