"""Absorption: where a concept's own latents stay silent and another latent carries it instead.

Chanin et al. 2024 (A is for Absorption) and SAEBench measure it on words and their first letters,
one token each. Here the unit is a text of a contrast, pooled, and the measure is adapted so:

- The probe is the dense logistic regression on the pooled residual; judged are the positive test
  texts that it gets right.
- The main latents are the feature splits of the paper: the best latents by Cohen's d, as many as
  raise the validation F1 of the k-sparse probe by more than 0.03 each. On 30 validation texts that
  is one text, so the number is coarse; erring upwards makes silence rarer.
- Everything is measured from the mean of the negative train texts: the residual's projection on the
  probe, every latent's part of it, and silence. A text's tokens have much in common that is no part
  of the concept (latents that fire everywhere, the residual's own mean), where the paper's single
  tokens of one prompt have little. A main latent is silent where it is not above that mean.
- A text is absorbed if all main latents are silent and the other latent with the largest part
  fires, has a decoder row with cosine >= 0.025 to the probe, and makes up 40 % or more of the
  residual's projection (the paper's ablation test in the form SAEBench gives it).
- `absorption_fraction` is SAEBench's graded measure with its constants: up to three latents with
  cosine >= 0.1 share the work, and the main latents need not be silent altogether.

A text spreads a concept over many tokens and latents, so one latent seldom holds 40 %: expect lower
figures than for words. `first_letters` applies the same code to words.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saesteer.evals.pooled import Kind, Pooled
from saesteer.evals.probing import Probe, columns, separations, sparse_probe

F1_JUMP = 0.03
MAX_SPLITS = 10
MIN_COSINE = 0.025
MIN_SHARE = 0.4
FRACTION_COSINE = 0.1
FRACTION_LATENTS = 3
"""SAEBench's constants (sae_bench/evals/absorption, 2025)."""


@dataclass(frozen=True)
class Absorption:
    """Absorption of one concept.

    Attributes:
        main: the concept's own latents, the most telling first.
        n_judged: positive test texts that the dense probe gets right.
        silent: share of them on which every main latent is silent; None without any.
        absorbed: share on which another latent takes over; None without any.
        absorption_fraction: mean share of the concept that other latents carry; None without any.
        absorbers: latents that took a text over, the most frequent first.
    """

    concept: str
    main: tuple[int, ...]
    n_judged: int
    silent: float | None
    absorbed: float | None
    absorption_fraction: float | None
    absorbers: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "main": list(self.main), "absorbers": list(self.absorbers)}


@dataclass(frozen=True, eq=False)
class _Judged:
    """Projections on the probe of the judged texts, from the mean of the negatives.

    `total` [texts] is the residual's, `parts` [texts, d_sae] the latents'; `fires` is where a
    latent is positive, `above` where it exceeds that mean, `cosines` [d_sae] how its decoder row
    lies to the probe.
    """

    total: Float[Tensor, " texts"]
    parts: Float[Tensor, "texts d_sae"]
    fires: Bool[Tensor, "texts d_sae"]
    above: Bool[Tensor, "texts d_sae"]
    cosines: Float[Tensor, " d_sae"]


def measure_absorption(
    pooled: Pooled, dense: Probe, w_dec: Float[Tensor, "d_sae d_model"]
) -> Absorption:
    """Judge the concept's test texts.

    Args:
        dense: the probe on the pooled residual, whose direction the decoder rows are held against.
        w_dec: of the SAE that `pooled.latents` come from.
    """
    main = main_latents(pooled)
    judged = _judge(pooled, dense, w_dec.cpu().double())
    silent = ~judged.above[:, main].any(1)
    absorbed, by = _taken_over(judged, main)
    absorbed &= silent
    absorbers = Counter(by[absorbed].tolist())
    return Absorption(
        concept=pooled.name,
        main=tuple(main),
        n_judged=len(silent),
        silent=_mean(silent),
        absorbed=_mean(absorbed),
        absorption_fraction=_mean(_fractions(judged, main)),
        absorbers=tuple(latent for latent, _ in absorbers.most_common()),
    )


def main_latents(pooled: Pooled) -> list[int]:
    """The concept's own latents: as many of the best as each still raise the validation F1."""
    worth = separations(pooled.sample("latents", "train"), "cohens_d")
    order = worth.argsort(descending=True, stable=True)[:MAX_SPLITS]
    candidates = [int(i) for i in order if worth[i] > 0] or [int(order[0])]
    best = _validation_f1(pooled, candidates[:1])
    for k in range(2, len(candidates) + 1):
        f1 = _validation_f1(pooled, candidates[:k])
        if f1 <= best + F1_JUMP:
            return candidates[: k - 1]
        best = f1
    return candidates


def _validation_f1(pooled: Pooled, latents: list[int]) -> float:
    validation = columns(pooled.sample("latents", "validation"), latents)
    guess = sparse_probe(pooled, "latents", latents).logits(validation.rows) > 0
    hits = int((guess & validation.positive).sum())
    return 2 * hits / int(guess.sum() + validation.positive.sum())


def _judge(pooled: Pooled, dense: Probe, w_dec: Float[Tensor, "d_sae d_model"]) -> _Judged:
    direction = dense.weight / dense.weight.norm()
    test = pooled.sample("resid", "test")
    chosen = test.positive & dense.correct(test)
    resid = test.rows.double()[chosen] - _negative_mean(pooled, "resid")
    latents = pooled.sample("latents", "test").rows.double()[chosen]
    change, along = latents - _negative_mean(pooled, "latents"), w_dec @ direction
    return _Judged(
        total=resid @ direction,
        parts=change * along,
        fires=latents > 0,
        above=change > 0,
        cosines=along / w_dec.norm(dim=-1).clamp(min=1e-12),
    )


def _negative_mean(pooled: Pooled, kind: Kind) -> Tensor:
    train = pooled.sample(kind, "train")
    return train.rows[~train.positive].double().mean(0)


def _taken_over(judged: _Judged, main: list[int]) -> tuple[Tensor, Tensor]:
    """Whether one other latent holds the concept, and which has the largest part, each [texts]."""
    parts = judged.parts.masked_fill(~judged.fires, -torch.inf)
    parts[:, main] = -torch.inf
    largest, by = parts.max(1)
    held = (judged.total > 0) & (largest >= MIN_SHARE * judged.total)
    return held & (judged.cosines[by] >= MIN_COSINE), by


def _fractions(judged: _Judged, main: list[int]) -> Float[Tensor, " texts"]:
    """SAEBench's graded absorption of each text, 0 to 1."""
    own = judged.parts[:, main].sum(1)
    able = judged.fires & (judged.cosines >= FRACTION_COSINE) & (judged.parts > 0)
    able[:, main] = False
    others = torch.where(able, judged.parts, 0.0)
    others = others.topk(min(FRACTION_LATENTS, others.shape[1]), dim=1).values.sum(1)
    taken = torch.minimum(others, judged.total - own)
    fraction = torch.where(own <= 0, 1.0, taken / (taken + own))
    held = (own < judged.total) & (judged.total > 0) & (others >= MIN_SHARE * judged.total)
    return torch.where(held, fraction, 0.0)


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None
