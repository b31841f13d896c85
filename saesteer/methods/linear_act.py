"""Linear-AcT: transport each coordinate's distribution from the negatives' to the positives'.

`a ← ω ⊙ a + β`, with strength λ `(1 − λ) a + λ (ω ⊙ a + β)`, at every position. For each coordinate
the optimal transport between two sets of numbers pairs them in order; ω, β are the least-squares
line through the pairs: ω = Σ ã b̃ / Σ ã², β = mean b − ω mean a, ã and b̃ the sorted values about
their means. Layers are fitted in the model's order, each with the earlier maps in place (λ = 1):
all train texts run as one batch, and each map is fitted as the activations arrive at its site and
applied before they go on, so that a fit costs a single pass.

Source: Rodriguez et al. 2024 (2410.23054); the closed form and the mean over a text's tokens as its
value follow the paper and its code (ml-act). Sites there are norms after attention and MLP; of
Gemma 2 those are what both add to the residual, which is what is taken here for every family
(from memory: the paper's own tables for other families use other modules). Unequal numbers of texts
are paired through their quantiles. A coordinate that does not vary is shifted, not scaled. The
paper can leave values outside the range seen alone; its code does not by default, nor does this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool
from torch import Tensor

from saesteer.data.contrast import Contrast
from saesteer.features.activations import TextBatch, pooled, text_batches
from saesteer.methods.base import Family, Method, check_optional_site
from saesteer.methods.directions import Sides
from saesteer.methods.transport import sites_of, transport
from saesteer.models import Model, as_model, install
from saesteer.models.hooks import Handle, remove
from saesteer.models.limits import finite_rows
from saesteer.models.sites import Site
from saesteer.steer import Intervention, Plan, affine
from saesteer.steer import all as everywhere


@final
@dataclass(frozen=True)
class LinearAcT(Method):
    """Affine maps of each coordinate at every layer's sites of these kinds."""

    source: ClassVar[str] = "Rodriguez et al. 2024, 2410.23054"
    needs: ClassVar[str] = "two groups of texts, unpaired"
    family: ClassVar[Family] = "dense"
    takes_site: ClassVar[bool] = False

    kinds: Sequence[str] = ("attn_out", "mlp_out")

    @property
    def name(self) -> str:
        """The paper's name."""
        return "Linear-AcT"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One map a layer and kind, whatever `site` is; see `Method.fit`.

        Memory is that of one pass over all train texts at once, without logits.
        """
        model = as_model(model)
        check_optional_site(model, site)
        texts = contrast.split("train").examples
        (batch,) = text_batches(model, texts, len(texts))
        positive = torch.tensor([texts[row].label == 1 for row in batch.rows])
        maps: dict[Site, Intervention] = {}
        handles: list[Handle] = []
        try:
            for place in sites_of(model, self.kinds):
                fit = _mapper(model, place, batch, positive, maps)
                handles.append(install(model.layout.point(place), fit))
            with torch.no_grad():
                model.forward(batch.tokens, base_only=True)
        finally:
            remove(handles)
        return Plan(*maps.values(), where=everywhere(), name=self.name)


def _mapper(
    model: Model,
    site: Site,
    batch: TextBatch,
    positive: Bool[Tensor, " texts"],
    maps: dict[Site, Intervention],
) -> Callable[[Tensor], Tensor]:
    """A hook that fits the site's map to what arrives there, keeps it in `maps`, and applies it."""
    special = torch.isin(batch.tokens.input_ids, model.special_ids.to(batch.tokens.input_ids))

    def fit(resid: Tensor) -> Tensor:
        rows = finite_rows(pooled(resid, batch, "mean"), model, site)
        maps[site] = affine(site, *transport(Sides(rows[positive], rows[~positive])))
        moved = maps[site].to(resid.device).delta(resid).masked_fill(special[..., None], 0.0)
        return (resid.float() + moved).to(resid.dtype)

    return fit
