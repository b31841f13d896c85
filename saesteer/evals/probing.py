"""Sparse probing: how well the k best latents tell a concept's texts apart.

Latents are ranked on the train texts, by the difference of their means (as in the papers) and by
Cohen's d (where dense latents don't win by their size), and a logistic regression on the k best is
fitted there. Ranking and L2 penalty are chosen by the log loss on the validation texts, and the
test texts are read once. Beside it stand the same probe on the SAE's random twin, which shows what
k sparse cuts in any directions can do, and a dense probe on the residual stream, which shows what
there is to find.

Source: Gurnee et al. 2023, Finding Neurons in a Haystack; Karvonen et al. 2025, SAEBench.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from saesteer.data.contrast import SPLITS
from saesteer.evals.pooled import Kind, Pooled, Sample
from saesteer.features.separation import cohens_d
from saesteer.metrics.intervals import (
    Interval,
    auroc_interval,
    bootstrap_interval,
    paired_difference,
)

KS = (1, 2, 5, 20)
Ranking = Literal["mean_difference", "cohens_d"]
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Values of scikit-learn's C, the inverse of the L2 penalty, on columns of unit variance."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear probe in the units of its rows: a text is positive where `logits` is above 0."""

    weight: Float[Tensor, " width"]
    bias: float

    def logits(self, rows: Float[Tensor, "texts width"]) -> Float[Tensor, " texts"]:
        """Log odds of the concept, in fp64."""
        return rows.double() @ self.weight + self.bias

    def correct(self, sample: Sample) -> Bool[Tensor, " texts"]:
        """Which texts it gets right."""
        return (self.logits(sample.rows) > 0) == sample.positive


@dataclass(frozen=True)
class ProbeScore:
    """A probe on the test texts; intervals are over texts, as if each were drawn alone."""

    accuracy: Interval
    auroc: Interval

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**_with_ci("accuracy", self.accuracy), **_with_ci("auroc", self.auroc)}


@dataclass(frozen=True)
class SparseProbe:
    """Probes on k latents of the SAE and on k of its random twin.

    Attributes:
        ranking: by which the SAE's latents were taken.
        latents: of the SAE, the most telling first.
        above_control: accuracy of the SAE's probe minus that of the twin's, on the same texts.
    """

    k: int
    ranking: Ranking
    latents: tuple[int, ...]
    score: ProbeScore
    control: ProbeScore
    above_control: Interval

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "k": self.k,
            "ranking": self.ranking,
            "latents": list(self.latents),
            **self.score.to_dict(),
            "control": self.control.to_dict(),
            **_with_ci("above_control", self.above_control),
        }


@dataclass(frozen=True)
class ConceptProbing:
    """Sparse probes of one concept, and the dense probe on the residual stream."""

    concept: str
    sparse: tuple[SparseProbe, ...]
    dense: ProbeScore
    n_train: int
    n_test: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "concept": self.concept,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "dense": self.dense.to_dict(),
            "sparse": [probe.to_dict() for probe in self.sparse],
        }


def sparse_probing(pooled: Pooled, dense: Probe, ks: Sequence[int] = KS) -> ConceptProbing:
    """Probe one concept with the k best latents for each k, the twin's likewise."""
    test = pooled.sample("resid", "test")
    return ConceptProbing(
        concept=pooled.name,
        sparse=tuple(_sparse(pooled, k) for k in ks),
        dense=_score(dense, test),
        n_train=len(pooled.sample("resid", "train").rows),
        n_test=len(test.rows),
    )


def dense_probe(pooled: Pooled) -> Probe:
    """The probe on the pooled residual."""
    return fit_probe(pooled.sample("resid", "train"), pooled.sample("resid", "validation"))


def fit_probe(train: Sample, validation: Sample) -> Probe:
    """Logistic regression on standardised columns, its penalty chosen by validation log loss.

    Both labels weigh the same in both, however many texts they have. Standardising is folded into
    the weights, so that they apply to rows as they come.
    """
    from sklearn.linear_model import LogisticRegression

    rows = train.rows.double()
    mean, spread = rows.mean(0), rows.std(0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    scaled, labels = ((rows - mean) / spread).numpy(), train.positive.numpy()
    probes = []
    for c in PENALTIES:
        fitted = LogisticRegression(C=c, class_weight="balanced", max_iter=5000).fit(scaled, labels)
        weight = torch.from_numpy(fitted.coef_[0]) / spread
        probes.append(Probe(weight, float(fitted.intercept_[0]) - float(weight @ mean)))
    return min(probes, key=lambda probe: _log_loss(probe, validation))


def separations(train: Sample, by: Ranking) -> Float[Tensor, " width"]:
    """How well each column tells the labels apart; its sign says which is higher."""
    return cohens_d(train.rows, train.positive) if by == "cohens_d" else train.difference().float()


def sparse_probe(pooled: Pooled, kind: Kind, latents: Sequence[int]) -> Probe:
    """The probe on some columns of one kind of rows."""
    train, validation = pooled.sample(kind, "train"), pooled.sample(kind, "validation")
    return fit_probe(columns(train, latents), columns(validation, latents))


def columns(sample: Sample, latents: Sequence[int]) -> Sample:
    """The same texts with these columns only."""
    return Sample(sample.rows[:, list(latents)], sample.positive)


@dataclass(frozen=True, eq=False)
class _Chosen:
    """The best probe on k columns of one kind of rows, and its test texts."""

    ranking: Ranking
    latents: tuple[int, ...]
    probe: Probe
    test: Sample


def _sparse(pooled: Pooled, k: int) -> SparseProbe:
    ours, control = (_choose(pooled, kind, k) for kind in ("latents", "control"))
    right = [c.probe.correct(c.test).double().tolist() for c in (ours, control)]
    return SparseProbe(
        k=k,
        ranking=ours.ranking,
        latents=ours.latents,
        score=_score(ours.probe, ours.test),
        control=_score(control.probe, control.test),
        above_control=paired_difference(right[0], right[1]),
    )


def _choose(pooled: Pooled, kind: Kind, k: int) -> _Chosen:
    """The ranking whose k best columns have the lower validation loss."""
    train, validation, test = (pooled.sample(kind, split) for split in SPLITS)
    found: list[tuple[float, _Chosen]] = []
    for ranking in get_args(Ranking):
        worth = separations(train, ranking).abs()
        latents = worth.topk(min(k, len(worth))).indices.tolist()
        probe = sparse_probe(pooled, kind, latents)
        loss = _log_loss(probe, columns(validation, latents))
        found.append((loss, _Chosen(ranking, tuple(latents), probe, columns(test, latents))))
    return min(found, key=lambda pair: pair[0])[1]


def _score(probe: Probe, test: Sample) -> ProbeScore:
    return ProbeScore(
        accuracy=bootstrap_interval(probe.correct(test).double().numpy()),
        auroc=auroc_interval(probe.logits(test.rows).numpy(), test.positive.numpy()),
    )


def _log_loss(probe: Probe, sample: Sample) -> float:
    """Mean of the two labels' mean log losses, in nats."""
    logits, labels = probe.logits(sample.rows), sample.positive
    losses = binary_cross_entropy_with_logits(logits, labels.double(), reduction="none")
    return float(losses[labels].mean() + losses[~labels].mean()) / 2


def _with_ci(name: str, interval: Interval) -> dict[str, Any]:
    return {name: interval.mean, f"{name}_ci": [interval.low, interval.high]}
