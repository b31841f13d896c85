"""Expert neurons across languages: hold the neurons that know a language at what is typical in it.

A neuron's value for a text is its mean over the text's tokens. Its average precision (AP) tells how
well that value ranks texts of the wanted language above all others'; the neurons of the highest AP
fire for the language, those of the lowest fall silent for it, and both are experts. At every
position each of them is set to its median over the wanted language's texts. Strength s goes that
share of the way.

Source: Kojima et al. 2024 (2404.02431), after self-conditioning (Suau et al. 2022, 2110.02802):
the highest and the lowest 1,000 AP, and the median, are theirs. From memory: that a text's value is
its tokens' mean, and that their candidates are attention's linear outputs as well; here neurons are
the MLP's hidden activations and `share` of them is taken at either end, since 1,000 means little in
a small model. `texts` None takes the contrast's two sides for two languages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saesteer.data.contrast import Contrast
from saesteer.methods.base import Family, Method, check_optional_site
from saesteer.methods.neurons import (
    TextsByLanguage,
    languages_of,
    neuron_maps,
    read_neurons,
    smallest,
)
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Plan
from saesteer.steer import all as everywhere


@final
@dataclass(frozen=True)
class ExpertNeurons(Method):
    """The wanted language's experts at their medians; `share` of all neurons at either end."""

    source: ClassVar[str] = "Kojima et al. 2024, 2404.02431"
    needs: ClassVar[str] = "texts by language"
    family: ClassVar[Family] = "dense"
    takes_site: ClassVar[bool] = False

    texts: TextsByLanguage | None = None
    wanted: str | None = None
    share: float = 0.01

    @property
    def name(self) -> str:
        """What the paper does, in a few words."""
        return "expert neurons"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One edit for each layer with an expert, whatever `site` is; see `Method.fit`.

        Raises:
            ConfigError: a language without texts.
        """
        model = as_model(model)
        check_optional_site(model, site)
        wanted, texts = languages_of(self.name, contrast, self.texts, self.wanted)
        rows = [text for language in texts.values() for text in language]
        of_wanted = torch.tensor([name == wanted for name, each in texts.items() for _ in each])
        values = read_neurons(model, rows, "mean")
        ap = torch.stack([average_precision(layer, of_wanted) for layer in values])
        n = max(round(self.share * ap.numel()), 1)
        experts = smallest(ap, n) | smallest(-ap, n)
        typical = torch.stack([layer[of_wanted].median(0).values for layer in values])
        acts = neuron_maps(torch.where(experts, 0.0, 1.0), torch.where(experts, typical, 0.0))
        return Plan(*acts, where=everywhere(), name=self.name)


def average_precision(
    values: Float[Tensor, "rows columns"], positive: Bool[Tensor, " rows"]
) -> Float[Tensor, " columns"]:
    """Mean over the positive rows of the precision among rows of at least their value.

    Equal values are taken together, so a neuron that never varies has the positives' share.
    """
    n = len(values)
    ordered, order = values.sort(dim=0, descending=True)
    ends = torch.cat([ordered[1:] != ordered[:-1], torch.ones_like(ordered[:1], dtype=torch.bool)])
    at = torch.arange(n)[:, None].expand_as(ordered)
    last = torch.where(ends, at, n - 1).flip(0).cummin(0).values.flip(0)
    hits = positive[order].float()
    return (hits * hits.cumsum(0).gather(0, last) / (last + 1)).sum(0) / hits.sum(0)
