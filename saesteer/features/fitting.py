"""Readouts fitted to labelled rows: tokens, spans, sentences or texts, already pooled to one row.

Five kinds, from the most readable to the least: one feature, a few weighted features, a decision
tree over features, the cosine with a difference of means, and a linear probe. The first three read
an SAE's latents, the last two the activation itself.
"""

from __future__ import annotations

import warnings
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saesteer.errors import ConfigError, ContrastError
from saesteer.features.concepts import CosineReadout, FeatureReadout, ProbeReadout, Readout
from saesteer.features.separation import cohens_d
from saesteer.features.trees import TreeReadout, fit_tree, tree_on
from saesteer.models.sites import Site
from saesteer.saes.sae import SAE

ReadoutKind = Literal["feature", "features", "tree", "cosine", "probe"]
SPARSE_KINDS: tuple[ReadoutKind, ...] = ("feature", "features", "tree")
"""Kinds that read latents; the others read activations."""

Rows = Float[Tensor, "rows columns"]
Labels = Bool[Tensor, " rows"]


def fit_readout(
    kind: ReadoutKind,
    rows: Rows,
    positive: Labels,
    site: Site,
    *,
    n_features: int = 16,
    seed: int = 0,
) -> Readout:
    """A readout of one kind whose score is higher on the positive rows.

    Args:
        rows: latents for `SPARSE_KINDS`, activations for the others.
        site: where dense readouts read.
        n_features: features of `features`, and those that `tree` may ask about.

    Raises:
        ContrastError: rows of one label only.
        ConfigError: an unknown kind.
    """
    _both_labels(positive)
    match kind:
        case "feature":
            return FeatureReadout((int(cohens_d(rows, positive).argmax()),))
        case "features":
            return _weighted(rows, positive, n_features, seed)
        case "tree":
            return fit_tree(rows, positive, most_separating(rows, positive, n_features), seed=seed)
        case "cosine":
            return CosineReadout(site, rows[positive].mean(0) - rows[~positive].mean(0))
        case "probe":
            weight, bias = logistic(rows, positive, seed)
            return ProbeReadout(site, weight, bias)
        case _:
            raise ConfigError(f"readout {kind!r} is none of {', '.join(get_args(ReadoutKind))}.")


def score_rows(readout: Readout, rows: Rows) -> Float[Tensor, " rows"]:
    """Scores of rows that are the readout's input already: latents, or activations."""
    match readout:
        case FeatureReadout(features=features, weights=weights):
            return rows[:, list(features)] @ torch.tensor(weights)
        case TreeReadout(features=features):
            return tree_on(readout, features).scores(rows[:, list(features)])
        case ProbeReadout(weight=weight, bias=bias):
            return rows @ weight + bias
        case CosineReadout(vector=vector):
            return torch.nn.functional.cosine_similarity(rows, vector[None], dim=-1)


def most_separating(rows: Rows, positive: Labels, n: int) -> list[int]:
    """The features that differ most between the labels, by |Cohen's d|, of those that fire.

    Features that are higher on the positives come first among equals; ties go to the lower index.
    """
    fires = (rows > 0).any(0)
    distance = torch.where(fires, cohens_d(rows, positive), 0.0)
    return distance.abs().topk(min(n, rows.shape[1])).indices.tolist()


def decoded_readout(
    rows: Rows,
    positive: Labels,
    site: Site,
    sae: SAE | None,
    *,
    n_features: int,
    c: float,
    seed: int,
) -> Readout:
    """Feature weights that lie along one direction of the decoder, or, without an SAE, a probe.

    `w_f = w_dec[f] · v`.

    `v` is fitted on what the SAE decodes to, so that d_model numbers are learned instead of d_sae;
    features that were never on while fitting are still read, by where they point.

    Args:
        rows: latents, or activations where there is no SAE; maybe pooled.
        n_features: so many stay, those of largest weight times root mean square of the latent.
        c: inverse strength of the regularisation.

    Raises:
        ContrastError: rows of one label only.
    """
    if sae is None:
        return ProbeReadout(site, *logistic(rows, positive, seed, c))
    direction, _ = logistic(rows @ sae.w_dec, positive, seed, c)
    return along(direction, rows, sae, n_features)


def along(
    direction: Float[Tensor, " d_model"], rows: Rows, sae: SAE, n_features: int
) -> FeatureReadout:
    """Features weighted by how their decoder rows lie along a direction.

    `n_features` stay, those of largest weight times root mean square of the latent in `rows`.
    """
    usual = rows.square().mean(0).sqrt()
    weights = sae.w_dec.float().cpu() @ direction
    chosen = (weights.abs() * usual).topk(min(n_features, len(weights))).indices
    return FeatureReadout(tuple(chosen.tolist()), tuple(weights[chosen].tolist()))


def logistic(rows: Rows, positive: Labels, seed: int = 0, c: float = 1.0) -> tuple[Tensor, float]:
    """Weights and bias of an L2-regularised logistic regression over standardised columns.

    Raises:
        ContrastError: rows of one label only.
    """
    _both_labels(positive)
    weight, bias = _regression(rows, positive, seed, c)
    return weight[0], float(bias[0])


def softmax_regression(
    rows: Rows, labels: Int[Tensor, " rows"], n: int, *, seed: int = 0, c: float = 1.0
) -> tuple[Float[Tensor, "n columns"], Float[Tensor, " n"]]:
    """The same for `n` labels that exclude each other: weights and biases of their logits.

    Raises:
        ContrastError: a label that never occurs.
    """
    for label in range(n):
        _both_labels(labels == label)
    return _regression(rows, labels, seed, c)


def _regression(rows: Rows, labels: Tensor, seed: int, c: float) -> tuple[Tensor, Tensor]:
    """All labels count alike, however many rows each has."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    centre, scale = rows.mean(0), rows.std(0).clamp_min(1e-6)
    fit = LogisticRegression(
        C=c, max_iter=200, tol=1e-3, random_state=seed, class_weight="balanced"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # separable rows go on for ever
        fit.fit(((rows - centre) / scale).numpy(), labels.numpy())
    found = np.asarray(fit.coef_, dtype=np.float32)
    weight = torch.from_numpy(found) / scale
    offset = np.asarray(fit.intercept_, dtype=np.float32)
    return weight, torch.from_numpy(offset) - weight @ centre


def _both_labels(positive: Labels) -> None:
    if bool(positive.all()) or not bool(positive.any()):
        raise ContrastError(
            f"all {len(positive)} rows have one label; a readout needs rows with and without the "
            "concept."
        )


def _weighted(rows: Rows, positive: Labels, n: int, seed: int) -> FeatureReadout:
    """Logistic weights over the most separating features; the bias belongs to the threshold."""
    features = most_separating(rows, positive, n)
    weight, _ = logistic(rows[:, features], positive, seed)
    return FeatureReadout(tuple(features), tuple(weight.tolist()))
