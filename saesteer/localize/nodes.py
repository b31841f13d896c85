"""Features as nodes: what each of an SAE's features does for the answer, estimated and measured.

The SAE is spliced into the clean run with its error node kept, h = decode(z) + error, which changes
nothing; a feature's node over a prompt is its latents at all positions. Attribution is
Σ_pos z · (g·W_dec), g the gradient of the logit difference by h: the first-order estimate of what
ablating the node takes away. For the `n_exact` largest it is taken away and measured.

Source: Marks et al. 2024, Sparse Feature Circuits (2403.19647). Outlier tokens pass by the SAE.
Unlike patching this needs no corrupted run: the other prompt only gives the other answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from saesteer.data.contrast import Contrast
from saesteer.localize.attribution import gradients
from saesteer.localize.pairs import PromptPair, prompt_pairs, run
from saesteer.localize.ranking import Localizer, Place, Ranking
from saesteer.metrics.outliers import outlier_tokens
from saesteer.models import Model, as_model, record
from saesteer.saes import check_width
from saesteer.saes.sae import SAE


@final
@dataclass(frozen=True)
class FeatureNodes(Localizer):
    """Features by their part in the logit difference; the `n_exact` largest ablated as well."""

    source: ClassVar[str] = "Marks et al. 2024, 2403.19647"
    needs: ClassVar[str] = "an SAE, pairs of prompts with answers"

    sae: SAE
    n_exact: int = 10

    def rank(self, model: Model | Any, contrast: Contrast) -> Ranking:
        """Features that fire on a prompt, by attribution in logits; see `Localizer.rank`.

        Raises:
            DimensionError: the SAE is of another width.
        """
        model = as_model(model)
        check_width(self.sae, model)
        pairs = prompt_pairs(model, contrast)
        latents = [self._latents(model, pair) for pair in pairs]
        scores = torch.stack(
            [self._attributions(model, *each) for each in zip(pairs, latents, strict=True)]
        ).mean(0)
        fired = torch.stack([(z > 0).any(0) for z in latents]).any(0).nonzero().flatten().tolist()
        places = (Place(self.sae.site, float(scores[f]), f) for f in fired)
        ranked = Ranking.of("feature nodes", "logits of the difference", places)
        measured = self._measured(model, pairs, latents, ranked.places[: self.n_exact])
        return replace(ranked, places=(*measured, *ranked.places[len(measured) :]))

    @torch.no_grad()
    def _latents(self, model: Model, pair: PromptPair) -> Tensor:
        """`[pos, d_sae]` of the clean prompt, on the SAE's device; 0 at outliers."""
        resid = record(model, pair.clean, [self.sae.site])[self.sae.site]
        latents = self.sae.encode(resid[0].to(self.sae.device)).float()
        return latents * ~outlier_tokens(resid)[0].to(latents.device).unsqueeze(-1)

    def _attributions(self, model: Model, pair: PromptPair, latents: Tensor) -> Tensor:
        grad = gradients(model, pair, pair.clean, [self.sae.site])[self.sae.site]
        return (latents * (grad.to(latents) @ self.sae.w_dec.float().T)).sum(0).cpu()

    @torch.no_grad()
    def _measured(
        self, model: Model, pairs: list[PromptPair], latents: list[Tensor], places: Sequence[Place]
    ) -> list[Place]:
        """Places with the mean fall of the logit difference without each, its error node kept."""
        clean = [pair.metric(run(model, pair.clean)) for pair in pairs]
        found: list[Place] = []
        for place in places:
            rest = [
                self._without(model, pair, z, place.index or 0)
                for pair, z in zip(pairs, latents, strict=True)
            ]
            falls = [float(before - after) for before, after in zip(clean, rest, strict=True)]
            found.append(replace(place, exact=sum(falls) / len(falls)))
        return found

    def _without(self, model: Model, pair: PromptPair, latents: Tensor, feature: int) -> Tensor:
        """The pair's logit difference with the feature's share taken away."""
        share = latents[:, feature, None] * self.sae.w_dec[feature].float()
        ablated = run(model, pair.clean, [(self.sae.site, lambda resid: resid - share.to(resid))])
        return pair.metric(ablated)
