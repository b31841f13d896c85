"""A logistic probe under an L1 penalty."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from saesteer.axes import Rows, Vector
from saesteer.methods.directions import rms_of


def sparse_weights(rows: Rows, labels: Bool[Tensor, " n"], c: float) -> Vector:
    """Weights of the probe, for columns in units of their common RMS.

    Args:
        c: what the cross entropy, summed over rows, weighs against the penalty; 1 is liblinear's.
    """
    from sklearn.linear_model import LogisticRegression

    newer = LogisticRegression().get_params()["penalty"] == "deprecated"  # from 1.8 on
    penalty: Any = {"l1_ratio": 1.0} if newer else {"penalty": "l1"}
    probe = LogisticRegression(C=c, solver="liblinear", max_iter=2000, random_state=0, **penalty)
    probe.fit((rows / rms_of(rows)).double().numpy(), labels.int().numpy())
    return torch.from_numpy(probe.coef_[0]).float()
