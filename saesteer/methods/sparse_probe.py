"""A logistic probe under an L1 penalty, as sparse as it is asked to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saesteer.axes import Rows, Vector
from saesteer.methods.directions import rms_of


def sparse_weights(
    rows: Rows,
    labels: Bool[Tensor, " n"],
    held_rows: Float[Tensor, "m d_model"],
    held_labels: Bool[Tensor, " m"],
    limit: int,
) -> Vector:
    """Weights of the best L1 probe that has at most `limit` positive ones, or of the sparsest.

    Zeros where nothing tells the labels apart.
    """
    from sklearn.svm import l1_min_c

    rms = rms_of(rows)
    train, held = ((each / rms).double().numpy() for each in (rows, held_rows))
    answers = labels.int().numpy()
    found: list[tuple[bool, float, np.ndarray]] = []
    try:
        lowest = l1_min_c(train, answers, loss="log")
    except ValueError:  # no column goes with the labels at all
        return torch.zeros(rows.shape[1])
    for c in lowest * np.logspace(0.1, 2, 10):
        probe = _l1_probe(float(c)).fit(train, answers)
        n_positive = int((probe.coef_[0] > 0).sum())
        score = float(probe.score(held, held_labels.int().numpy()))
        found.append((0 < n_positive <= limit, score, probe.coef_[0]))
    some = [each for each in found if (each[2] > 0).any()] or found
    best = max(some, key=lambda each: each[:2])  # the first of equals is the sparsest
    return torch.from_numpy(best[2]).float()


def _l1_probe(c: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    newer = LogisticRegression().get_params()["penalty"] == "deprecated"  # from 1.8 on
    penalty: Any = {"l1_ratio": 1.0} if newer else {"penalty": "l1"}
    return LogisticRegression(C=c, solver="liblinear", max_iter=2000, random_state=0, **penalty)
