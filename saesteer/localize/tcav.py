"""TCAV: does moving along a concept's direction raise the likelihood of texts, more than chance?

At each site a concept activation vector v `[width]` is the normal of a logistic regression between
the train positives and negatives; the TCAV score is the share of held-out positives x for which the
directional derivative Σ_tokens ∇_h log p(x) · v is positive. Vectors are fitted `n_runs` times on
random halves of the texts, and as often with the labels of each half shuffled; a two-sided Welch
t-test compares the two groups of scores, Bonferroni-corrected over the sites.

Source: Kim et al. 2018 (1711.11279). There the class is a logit of a classifier and the random
vectors part one random set from another; here the "class" is the text itself, which a language
model can be asked about, and the random sets are the same texts, so that only the label is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from saesteer.methods.directions import Sides, logistic_direction, read_sides
from saesteer.models import Model, Site, as_model

FEWEST = 4
"""Texts of either label below which halves say nothing."""


@final
@dataclass(frozen=True)
class TCAV(Localizer):
    """Sites by how much more often a concept's vectors raise its texts than shuffled ones do."""

    source: ClassVar[str] = "Kim et al. 2018, 1711.11279"
    needs: ClassVar[str] = "two groups of texts, with a validation split"

    kinds: Sequence[str] = ("resid_post",)
    n_runs: int = 20
    seed: int = 0

    def rank(self, model: Model | Any, contrast: Contrast) -> Ranking:
        """Sites by TCAV score above that of random vectors, with p-values.

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
        generator = torch.Generator().manual_seed(self.seed)
        places: list[Place] = []
        for site in sites:
            own = self._scores(sides[site], grads[site], generator, shuffle=False)
            chance = self._scores(sides[site], grads[site], generator, shuffle=True)
            p = min(1.0, welch(own, chance) * len(sites))
            places.append(Place(site, float(own.mean() - chance.mean()), p_value=p))
        return Ranking.of("TCAV", "TCAV score above that of shuffled labels", places)

    def _scores(
        self, sides: Sides, grads: Tensor, generator: torch.Generator, *, shuffle: bool
    ) -> Tensor:
        """A TCAV score per run, `[n_runs]`."""
        scores: list[Tensor] = []
        for _ in range(self.n_runs):
            halves = [
                side[torch.randperm(len(side), generator=generator)[: -(-len(side) // 2)]]
                for side in sides
            ]
            rows, n_positive = torch.cat(halves), len(halves[0])
            if shuffle:
                rows = rows[torch.randperm(len(rows), generator=generator)]
            vector, _ = logistic_direction(Sides(rows[:n_positive], rows[n_positive:]))
            scores.append((grads @ vector > 0).float().mean())
        return torch.stack(scores)


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


def welch(a: Tensor, b: Tensor) -> float:
    """Two-sided p of Welch's t-test; groups without any spread are equal or surely not."""
    from scipy.stats import ttest_ind_from_stats

    stats = [(float(x.double().mean()), float(x.double().std()), len(x)) for x in (a, b)]
    if not any(deviation > 0 for _, deviation, _ in stats):
        return 1.0 if stats[0][0] == stats[1][0] else 0.0
    return float(ttest_ind_from_stats(*stats[0], *stats[1], equal_var=False).pvalue)
