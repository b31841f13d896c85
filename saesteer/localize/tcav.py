"""TCAV: does moving along a concept's direction raise the likelihood of texts, more than chance?

At each site a concept activation vector v `[width]` is the normal of a logistic regression between
the train positives and negatives; the TCAV score is the share of held-out positives x for which the
directional derivative Σ_tokens ∇_h log p(x) · v is positive. `n_runs` further vectors are fitted
with the labels shuffled, the same way at every site. p is the share of all runs, the true labels'
among them, that lie at some site as far from the middle of its scores as the true labels do here,
so it holds for all sites together.

Source: Kim et al. 2018 (1711.11279). There the class is a logit of a classifier and the random
vectors part one random set from another; here the "class" is the text itself, which a language
model can be asked about, and the random sets are the same texts, so that only the label is tested.
Their t-test counts repeated fits as independent, which fits to the same texts are not: here it
called about half of the labels that say nothing significant at 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional

from saesteer.data.contrast import Contrast
from saesteer.errors import DataError
from saesteer.features.activations import TextBatch, text_batches
from saesteer.localize.patching import sites_of
from saesteer.localize.ranking import Localizer, Place, Ranking
from saesteer.localize.slopes import slopes_at
from saesteer.methods.base import ROUNDING
from saesteer.methods.directions import Sides, logistic_direction, read_sides
from saesteer.models import Model, Site, as_model

FEWEST = 4
"""Texts of either label below which there is little to shuffle."""


@final
@dataclass(frozen=True)
class TCAV(Localizer):
    """Sites by how much more often a concept's vectors raise its texts than shuffled ones do."""

    source: ClassVar[str] = "Kim et al. 2018, 1711.11279"
    needs: ClassVar[str] = "two groups of texts, with a validation split"

    kinds: Sequence[str] = ("resid_post",)
    n_runs: int = 50
    seed: int = 0

    def rank(self, model: Model | Any, contrast: Contrast) -> Ranking:
        """Sites by TCAV score above that of random vectors; p is 1/(n_runs + 1) or more.

        Raises:
            DataError: too few train texts.
        """
        model = as_model(model)
        sites = sites_of(model, self.kinds)
        train = contrast.split("train")
        if min(len(train.positives), len(train.negatives)) < FEWEST or self.n_runs < 2:
            raise DataError(
                f"TCAV: {len(train.positives)} and {len(train.negatives)} train texts for "
                f"{self.n_runs} runs; give {FEWEST} or more of each, and 2 runs or more."
            )
        sides = read_sides(model, train, sites, "mean")
        grads = text_gradients(model, contrast.split("validation"), sites)
        generator, n = torch.Generator().manual_seed(self.seed), len(sides[sites[0]].rows)
        orders = [torch.arange(n)]
        orders += [torch.randperm(n, generator=generator) for _ in range(self.n_runs)]
        found = [[_score(sides[site], grads[site], order) for order in orders] for site in sites]
        scores = torch.tensor(found, dtype=torch.float64)
        apart = (scores - scores.mean(1, keepdim=True)).abs()
        furthest = apart[:, 1:].max(0).values
        places: list[Place] = []
        for site, (own, *chance), far in zip(sites, found, apart[:, 0].tolist(), strict=True):
            p = (1 + int((furthest >= far - ROUNDING).sum())) / len(orders)
            places.append(Place(site, own - fmean(chance), p_value=p))
        return Ranking.of("TCAV", "TCAV score above that of shuffled labels", places)


def _score(sides: Sides, grads: Tensor, order: Tensor) -> float:
    """The TCAV score of the vector between the first texts of an order and the others."""
    rows, n_positive = sides.rows[order], len(sides.positive)
    vector, _ = logistic_direction(Sides(rows[:n_positive], rows[n_positive:]))
    return float((grads @ vector > 0).float().mean())


def text_gradients(model: Model, contrast: Contrast, sites: Sequence[Site]) -> dict[Site, Tensor]:
    """Σ over a text's tokens of ∇_h log p(text), per positive example and site, `[n, width]`."""
    rows: dict[Site, dict[int, Tensor]] = {site: {} for site in sites}
    for batch in text_batches(model, contrast.positives, batch_size=4):
        for site, grad in _batch_gradients(model, batch, sites).items():
            own = batch.own.to(grad.device).unsqueeze(-1)
            summed = torch.where(own, grad.float(), 0.0).sum(1).cpu()
            rows[site] |= dict(zip(batch.rows, summed, strict=True))
    return {site: torch.stack([found[i] for i in sorted(found)]) for site, found in rows.items()}


def _batch_gradients(model: Model, batch: TextBatch, sites: Sequence[Site]) -> dict[Site, Tensor]:
    def log_likelihood() -> Tensor:
        logits = model.forward(batch.tokens)[:, :-1].float()
        ids = batch.tokens.input_ids[:, 1:].to(logits.device)
        scored = batch.own[:, 1:].to(logits.device)
        return -functional.cross_entropy(logits[scored], ids[scored], reduction="sum")

    return slopes_at(model, sites, log_likelihood)
