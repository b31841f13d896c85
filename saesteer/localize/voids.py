"""Voids: layers that a token passes through without its activation's norm changing much.

Layer ℓ's activity at a token is |‖h_ℓ‖ − ‖h_{ℓ−1}‖|, h after each block; it is active there where
that is at least `threshold` times the largest activity of the layers up to it, else a void. A
layer's score is the share of tokens at which it is active, over prompts (`phase="prompt"`) or over
the texts themselves ("response"): the two phases use different layers.

Source: Shemiranifar 2025 (2505.14467), whose L2 adaptive computation follows changes in the norm
with a threshold that moves with each token's own. The exact rule is not in reach and chosen: the
largest change so far is the scale, the first layer's is taken from the embedding, and outlier
tokens are left out, since one massive activation makes voids of all later layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saesteer.data.contrast import Contrast
from saesteer.errors import DataError
from saesteer.features.activations import TextBatch, text_batches
from saesteer.localize.ranking import Localizer, Place, Ranking
from saesteer.metrics.outliers import outlier_tokens
from saesteer.models import Model, Site, as_model, record


@final
@dataclass(frozen=True)
class Voids(Localizer):
    """Layers by the share of tokens at which they are active; both labels are read alike."""

    source: ClassVar[str] = "Shemiranifar 2025, 2505.14467"
    needs: ClassVar[str] = "texts, with prompts for phase=prompt"

    phase: Literal["prompt", "response"] = "response"
    threshold: float = 0.2

    def rank(self, model: Model | Any, contrast: Contrast) -> Ranking:
        """Layers, most active first; see `Localizer.rank`.

        Raises:
            DataError: no token of the phase.
        """
        model = as_model(model)
        sites = [Site(layer, "resid_post") for layer in range(model.n_layers)]
        total, n_tokens = torch.zeros(len(sites), dtype=torch.float64), 0
        for batch in text_batches(model, contrast.examples):
            norms, kept = self._norms(model, batch, sites)
            active = activity(norms[:, kept], self.threshold)
            total += active.double().sum(-1)
            n_tokens += active.shape[1]
        if not n_tokens:
            raise DataError(f"voids: {contrast.name} has no tokens of the {self.phase} to trace.")
        places = [Place(s, float(t) / n_tokens) for s, t in zip(sites, total, strict=True)]
        unit = f"share of {self.phase} tokens at which the layer is active"
        return Ranking.of("voids", unit, places)

    def _norms(
        self, model: Model, batch: TextBatch, sites: list[Site]
    ) -> tuple[Float[Tensor, "depth batch pos"], Bool[Tensor, "batch pos"]]:
        """‖h‖ before the first block and after each, and the phase's tokens."""
        valid = batch.tokens.attention_mask.cpu()
        special = torch.isin(batch.tokens.input_ids.cpu(), model.special_ids)
        kept = batch.own if self.phase == "response" else valid & ~batch.own & ~special
        norms: list[Tensor] = []
        seen = record(model, batch.tokens, [Site(0, "resid_pre"), *sites], keep=_norm_of)
        for site in (Site(0, "resid_pre"), *sites):
            norms.append(seen[site].squeeze(-1).cpu())
            kept = kept & ~outlier_tokens(seen[site].cpu(), valid)
        return torch.stack(norms), kept


def activity(norms: Float[Tensor, "depth n"], threshold: float) -> Bool[Tensor, "layers n"]:
    """Which layers are active at each token, from the norms around them."""
    change = (norms[1:] - norms[:-1]).abs()
    return change >= threshold * change.cummax(0).values


def _norm_of(resid: Tensor) -> Tensor:
    return resid.float().norm(dim=-1, keepdim=True)
