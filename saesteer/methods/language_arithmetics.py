"""Language arithmetics: add what a language's own neurons do to it, silence another language's.

p(neuron, language): the share of tokens at which the neuron is above zero. LAPE, the entropy of p
over languages brought to sum 1, is low for neurons that few languages use. Of all neurons those
whose p exceeds the 95th percentile in some language are kept, the `share` of lowest LAPE taken, and
each is a language's where its p in that language exceeds that percentile. Then, at every position,
`a += strength · (mean a in the wanted language)` for its neurons and `a ← a · (1 − strength)` for
those of the unwanted ones; a neuron of both is set to the wanted mean.

Source: Gurgurov et al. 2025 (2507.22608) and their code; LAPE: Tang et al. 2024 (2402.16438) and
theirs: both percentiles and 1 % of neurons are as there. In gated MLPs they count and edit the
gate's output before it is multiplied with the other branch; the site here is the product, whose
sign is not the gate's alone, so there p and the neurons found differ from theirs. Each text counts
once, not each token. `texts` None takes the contrast's two sides for two languages; `unwanted` None
takes all but the wanted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError, ContrastError
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

ACTIVE = 0.95
"""Quantile of all activation probabilities above which a neuron is active in a language."""


@final
@dataclass(frozen=True)
class LanguageArithmetics(Method):
    """Neurons of the `wanted` language raised, those of the `unwanted` ones silenced."""

    source: ClassVar[str] = "Gurgurov et al. 2025, 2507.22608; LAPE: Tang et al. 2024, 2402.16438"
    needs: ClassVar[str] = "texts by language"
    family: ClassVar[Family] = "dense"
    takes_site: ClassVar[bool] = False

    texts: TextsByLanguage | None = None
    wanted: str | None = None
    unwanted: Sequence[str] | None = None
    share: float = 0.01

    @property
    def name(self) -> str:
        """The paper's name."""
        return "language arithmetics"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One edit for each layer with a chosen neuron, whatever `site` is; see `Method.fit`.

        Raises:
            ConfigError: a language without texts.
            ContrastError: no neuron is the wanted or an unwanted language's own.
        """
        model = as_model(model)
        check_optional_site(model, site)
        wanted, texts = languages_of(self.name, contrast, self.texts, self.wanted)
        unwanted = [k for k in texts if k != wanted] if self.unwanted is None else self.unwanted
        if lost := sorted({*unwanted} - {*texts} | {*unwanted} & {wanted}):
            raise ConfigError(f"{self.name}: unwanted {lost}; choose among the others' texts.")
        rates = [_mean(model, each, "rate") for each in texts.values()]
        own = dict(zip(texts, own_neurons(torch.stack(rates), self.share), strict=True))
        raised = own[wanted]
        silenced = torch.stack([raised & False, *(own[k] for k in unwanted)]).any(0)
        acts = neuron_maps(
            torch.where(silenced, 0.0, 1.0),
            torch.where(raised, _mean(model, texts[wanted], "mean"), 0.0),
        )
        if not acts:
            raise ContrastError(f"{self.name}: no neuron is {wanted}'s or another language's own.")
        return Plan(*acts, where=everywhere(), name=self.name)


def own_neurons(rates: Float[Tensor, "languages layers neurons"], share: float) -> list[Tensor]:
    """For each language, which neurons are its own, `[layers, neurons]`."""
    bar = rates.flatten().kthvalue(max(round(rates.numel() * ACTIVE), 1)).values
    split = rates / rates.sum(0).clamp_min(torch.finfo(torch.float32).tiny)
    lape = -torch.special.xlogy(split, split).sum(0)
    active = rates > bar
    lape = lape.masked_fill(~active.any(0), torch.inf)
    chosen = smallest(lape, max(round(share * lape.numel()), 1))
    return [chosen & language for language in active]


def _mean(model: Model, texts: Any, pool: Any) -> Float[Tensor, "layers neurons"]:
    return torch.stack([rows.mean(0) for rows in read_neurons(model, texts, pool)])
