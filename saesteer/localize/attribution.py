"""Attribution patching: all places estimated at once from one gradient, and its two repairs.

With a the clean and a' the corrupted activation, and g the gradient of the logit difference m by
the activation in the corrupted run, patching a place restores about (a − a')·g; scores are shares
of m(clean) − m(corrupted), as in activation patching.

`AttributionPatching` is that (Nanda 2023). `AtPStar` (Kramár et al. 2024, 2403.00745) is the mean
over layers ℓ of |(a − a')·g_ℓ|, g_ℓ with the gradient through what layer ℓ adds cut off (GradDrop,
their ½: direct and indirect paths that cancel are seen), over the L − 1 layers that are not the
place's own; only sizes are left. Their other repair, exact softmax for query and key nodes, has no
site here to apply to. `RelP` (Jafari et al. 2025, 2508.21258) puts propagation coefficients
in the place of g (`localize.relevance`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from saesteer.data.contrast import Contrast
from saesteer.errors import DataError
from saesteer.localize.pairs import Change, PromptPair, prompt_pairs, run
from saesteer.localize.patching import SMALLEST, sites_of
from saesteer.localize.ranking import Localizer, Place, Ranking
from saesteer.localize.relevance import propagation_rules
from saesteer.localize.slopes import Gradients, slopes_at
from saesteer.models import Model, Site, TokenBatch, as_model, record

By = Literal["position", "site", "unit"]


@dataclass(frozen=True)
class GradientLocalizer(Localizer):
    """(a − a')·g per position, per whole site, or per coordinate over all positions ("unit")."""

    needs: ClassVar[str] = "pairs of prompts with answers"
    unit: ClassVar[str] = "estimated share of the logit difference restored"

    kinds: Sequence[str] = ("resid_post",)
    by: By = "position"

    @property
    @abstractmethod
    def name(self) -> str:
        """The paper's name."""

    @abstractmethod
    def terms(
        self, model: Model, pair: PromptPair, sites: Sequence[Site], changes: Gradients
    ) -> Gradients:
        """Per site, `[pos, width]`: each coordinate's estimate, or several stacked in front.

        Args:
            changes: a − a' at each site, `[pos, width]`.
        """

    def rank(self, model: Model | Any, contrast: Contrast) -> Ranking:
        """Places by their estimated share, averaged over pairs; see `Localizer.rank`."""
        model = as_model(model)
        sites = sites_of(model, self.kinds)
        scores: dict[tuple[Site, int | None, int | None], list[float]] = defaultdict(list)
        for pair in prompt_pairs(model, contrast):
            clean, corrupted = (
                record(model, pair.clean, sites),
                record(model, pair.corrupted, sites),
            )
            moved = {site: (clean[site] - corrupted[site])[0].float() for site in sites}
            whole = _whole(model, pair)
            for site, terms in self.terms(model, pair, sites, moved).items():
                for (index, position), value in self._parts(terms / whole, pair.n_tokens):
                    scores[site, index, position].append(value)
        places = (
            Place(site, sum(v) / len(v), index, position)
            for (site, index, position), v in scores.items()
        )
        return Ranking.of(self.name, self.unit, places)

    def combine(self, sums: Tensor) -> Tensor:
        """What several stacked estimates `[n, places]` come to; there is one of them by default."""
        return sums.sum(0)

    def _parts(
        self, terms: Tensor, n_tokens: int
    ) -> list[tuple[tuple[int | None, int | None], float]]:
        stacked = terms if terms.ndim == 3 else terms[None]
        match self.by:
            case "position":
                keys = [(None, position) for position in range(-n_tokens, 0)]
                sums = stacked.sum(-1)
            case "site":
                keys, sums = [(None, None)], stacked.sum((-1, -2))[:, None]
            case "unit":
                keys = [(index, None) for index in range(stacked.shape[-1])]
                sums = stacked.sum(-2)
        return list(zip(keys, self.combine(sums).tolist(), strict=True))


@final
@dataclass(frozen=True)
class AttributionPatching(GradientLocalizer):
    """The first-order estimate of patching, by the gradient at the corrupted run."""

    source: ClassVar[str] = "Nanda 2023; Syed et al. 2023, 2310.10348"

    @property
    def name(self) -> str:
        """The paper's name."""
        return "attribution patching"

    def terms(
        self, model: Model, pair: PromptPair, sites: Sequence[Site], changes: Gradients
    ) -> Gradients:
        """(a − a') ⊙ g."""
        grads = gradients(model, pair, pair.corrupted, sites)
        return {site: changes[site] * grads[site] for site in sites}


@final
@dataclass(frozen=True)
class AtPStar(GradientLocalizer):
    """Sizes of estimates with each layer's gradient dropped in turn, averaged."""

    source: ClassVar[str] = "Kramár et al. 2024, 2403.00745"
    unit: ClassVar[str] = "mean size of the estimated share, a layer dropped at a time"

    @property
    def name(self) -> str:
        """The paper's name."""
        return "AtP*"

    def terms(
        self, model: Model, pair: PromptPair, sites: Sequence[Site], changes: Gradients
    ) -> Gradients:
        """(a − a') ⊙ g_ℓ for every layer ℓ but the place's own, `[layers, pos, width]`; one
        backward pass each."""
        dropped = [
            gradients(model, pair, pair.corrupted, sites, _drop(layer))
            for layer in range(model.n_layers)
        ]
        kept = {s: dropped[: s.layer] + dropped[s.layer + 1 :] or dropped for s in sites}
        return {s: torch.stack([changes[s] * grads[s] for grads in kept[s]]) for s in sites}

    def combine(self, sums: Tensor) -> Tensor:
        """Mean size over the layers."""
        return sums.abs().mean(0)


@final
@dataclass(frozen=True)
class RelP(GradientLocalizer):
    """Propagation coefficients in the place of gradients."""

    source: ClassVar[str] = "Jafari et al. 2025, 2508.21258"

    @property
    def name(self) -> str:
        """The paper's name."""
        return "RelP"

    def terms(
        self, model: Model, pair: PromptPair, sites: Sequence[Site], changes: Gradients
    ) -> Gradients:
        """(a − a') ⊙ the coefficients."""
        with propagation_rules(model):
            coefficients = gradients(model, pair, pair.corrupted, sites)
        return {site: changes[site] * coefficients[site] for site in sites}


def gradients(
    model: Model,
    pair: PromptPair,
    batch: TokenBatch,
    sites: Sequence[Site],
    changes: Sequence[tuple[Site, Change]] = (),
) -> Gradients:
    """Gradient of the pair's metric by the activation at each site, `[pos, width]` in fp32."""

    def metric() -> Tensor:
        return pair.metric(run(model, batch)).sum()

    found = slopes_at(model, sites, metric, changes)
    return {site: grad[0].float() for site, grad in found.items()}


def _drop(layer: int) -> list[tuple[Site, Change]]:
    """No gradient through what a layer adds to the residual."""
    return [(Site(layer, kind), lambda resid: resid.detach()) for kind in ("attn_out", "mlp_out")]


@torch.no_grad()
def _whole(model: Model, pair: PromptPair) -> float:
    sides = (float(pair.metric(run(model, batch))) for batch in (pair.clean, pair.corrupted))
    clean, corrupted = sides
    if abs(clean - corrupted) < SMALLEST:
        raise DataError(
            f"attribution: a pair's logit difference is {clean:.4g} in both runs, so there is "
            "nothing to attribute; choose prompts that the model tells apart."
        )
    return clean - corrupted
