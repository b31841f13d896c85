"""A probe with one hidden layer, fitted by scikit-learn, and an edit that climbs it.

logit(h) = w₂ · relu(W₁ (h − centre) / scale + b₁) + b₂. Activations are centred and brought to RMS
1 by one scale for all coordinates, so that the L2 penalty means the same at every site.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saesteer.axes import Resid, Vector
from saesteer.methods.directions import Sides, rms_of
from saesteer.steer import Intervention, register_kind

PENALTY = 0.1
"""L2 penalty (scikit-learn's `alpha`): what keeps a few dozen texts from being learnt by heart."""
UNREACHED = 1e9
"""A goal that no logit meets, finite so that a plan's file can hold it."""


@register_kind
@final
@dataclass(frozen=True, eq=False)
class MlpProbe:
    """The probe; positive logits mean the positives."""

    centre: Vector
    scale: float
    w_in: Float[Tensor, "hidden d_model"]
    b_in: Float[Tensor, " hidden"]
    w_out: Float[Tensor, " hidden"]
    b_out: float

    def logit(self, h: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """What it says of each row."""
        return self._hidden(h).relu() @ self.w_out + self.b_out

    def gradient(self, h: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """How each row's logit grows with it, in the activation's own units."""
        open_units = (self._hidden(h) > 0).to(h.dtype)
        return (open_units * self.w_out) @ self.w_in / self.scale

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> MlpProbe:
        """The same probe elsewhere."""
        names = ("centre", "w_in", "b_in", "w_out")
        centre, w_in, b_in, w_out = (getattr(self, name).to(device, dtype) for name in names)
        return MlpProbe(centre, self.scale, w_in, b_in, w_out, self.b_out)

    def _hidden(self, h: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch hidden"]:
        return (h - self.centre) / self.scale @ self.w_in.T + self.b_in


@register_kind
@final
@dataclass(frozen=True, eq=False)
class ProbeAscent(Intervention):
    """Steps of one length up the probe's gradient until its logit reaches `goal`."""

    probe: MlpProbe
    step: float
    n_steps: int
    goal: float

    @property
    def width(self) -> int:
        """Size of the activations that the probe reads."""
        return self.probe.w_in.shape[1]

    def describe(self) -> str:
        """`step until a probe says 0.9`, or `step 5 times up a probe`."""
        if self.goal >= UNREACHED:
            return f"step {self.n_steps} times up a probe"
        return f"step until a probe says {1 / (1 + math.exp(-self.goal)):.2g}"

    def delta(self, resid: Resid) -> Resid:
        """The sum of the steps; none where the probe says it already."""
        start = moved = resid.float()
        for _ in range(self.n_steps):
            missing = (self.probe.logit(moved) < self.goal)[..., None]
            way = functional.normalize(self.probe.gradient(moved), dim=-1)
            moved = moved + torch.where(missing, self.step * way, 0.0)
        return moved - start


def fit_mlp(sides: Sides, n_hidden: int, seed: int = 0) -> MlpProbe:
    """The probe that tells the sides' rows apart, by L-BFGS from a seeded start.

    L-BFGS suits some hundred rows, where minibatches have little to average over.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    centre = sides.rows.mean(0)
    scale = rms_of(sides.rows - centre)
    probe = MLPClassifier((n_hidden,), solver="lbfgs", alpha=PENALTY, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # good enough to rank is good enough
        rows = ((sides.rows - centre) / scale).double().numpy()
        probe.fit(rows, sides.labels.numpy().astype(int))
    (w_in, w_out), (b_in, b_out) = probe.coefs_, probe.intercepts_
    return MlpProbe(
        centre,
        scale,
        torch.from_numpy(w_in.T.copy()).float(),
        torch.from_numpy(b_in).float(),
        torch.from_numpy(w_out[:, 0].copy()).float(),
        float(b_out[0]),
    )
