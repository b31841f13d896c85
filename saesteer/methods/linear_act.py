"""Linear-AcT: transport each coordinate's distribution from the negatives' to the positives'.

`a ← ω ⊙ a + β`, with strength λ `(1 − λ) a + λ (ω ⊙ a + β)`, at every position. For each coordinate
the optimal transport between two sets of numbers pairs them in order; ω, β are the least-squares
line through the pairs: ω = Σ ã b̃ / Σ ã², β = mean b − ω mean a, ã and b̃ the sorted values about
their means. Layers are fitted in the model's order, each with the earlier maps in place (λ = 1).

Source: Rodriguez et al. 2024 (2410.23054); the closed form and the mean over a text's tokens as its
value follow the paper and its code (ml-act). Sites there are norms after attention and MLP; of
Gemma 2 those are what both add to the residual, which is what is taken here for every family
(from memory: the paper's own tables for other families use other modules). Unequal numbers of texts
are paired through their quantiles. A coordinate that does not vary is shifted, not scaled. The
paper can leave values outside the range seen alone; its code does not by default, nor does this.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Rows, Vector
from saesteer.data.contrast import Contrast
from saesteer.methods.base import ROUNDING, Family, Method, check_optional_site
from saesteer.methods.directions import Sides, read_sides
from saesteer.models import Model, as_model
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

    kinds: Sequence[str] = ("attn_out", "mlp_out")

    @property
    def name(self) -> str:
        """The paper's name."""
        return "Linear-AcT"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One map a layer and kind, whatever `site` is; see `Method.fit`.

        Costs one pass over the train texts, up to the site, for each of them: three minutes for
        the 60 sites of the embedded model and 90 texts, on two cores.
        """
        model = as_model(model)
        check_optional_site(model, site)
        train = contrast.split("train")
        sites = [Site(layer, kind) for layer in range(model.n_layers) for kind in self.kinds]
        maps: list[Intervention] = []
        for place in sorted((model.check_site(s) for s in sites), key=lambda s: s.order):
            with _plan(maps).on(model) if maps else nullcontext():
                sides = read_sides(model, train, [place], "mean")[place]
            maps.append(affine(place, *transport(sides)))
        return _plan(maps, self.name)


def transport(sides: Sides) -> tuple[Vector, Vector]:
    """ω and β `[width]` from the negatives to the positives."""
    n_levels = max(map(len, sides))
    source, target = (quantiles(side, n_levels) for side in (sides.negative, sides.positive))
    start, end = source.mean(0), target.mean(0)
    spread = (source - start).square().sum(0)
    slope = ((source - start) * (target - end)).sum(0) / spread
    varies = spread > (ROUNDING * start).square() * n_levels
    slope = torch.where(varies & slope.isfinite(), slope, 1.0)
    return slope.float(), (end - slope * start).float()


def quantiles(rows: Rows, n_levels: int) -> torch.Tensor:
    """Each column's quantiles at evenly spaced levels: the sorted rows, if there are as many."""
    ordered = rows.double().sort(0).values
    at = torch.linspace(0, len(ordered) - 1, n_levels, dtype=torch.float64)
    low = at.floor().long().clamp(max=len(ordered) - 1)
    high = (low + 1).clamp(max=len(ordered) - 1)
    return torch.lerp(ordered[low], ordered[high], (at - low)[:, None])


def wasserstein(
    rows: Float[Tensor, "n width"], target: Float[Tensor, "m width"]
) -> Float[Tensor, ""]:
    """Mean over coordinates of the squared 1-D Wasserstein-2 distance between two samples."""
    wanted = quantiles(target, len(rows)).to(rows.device, torch.float32)
    return (rows.sort(0).values - wanted).square().mean()


def _plan(maps: Sequence[Intervention], name: str = "maps so far") -> Plan:
    return Plan(*maps, where=everywhere(), name=name)
