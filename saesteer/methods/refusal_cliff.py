"""Refusal cliff: silence the heads that pull a refusal down at the last moment.

A logistic probe w `[d_model]` reads refusal from the residual at a text's last token. Head (l, h)
writes W_O^(l,h) z there, so it moves the probe by w · W_O^(l,h) z; the heads whose mean over the
texts that should refuse (the positives) is most negative are set to zero at every position, 3 % of
all heads by default, and none that pushes up. `cliff` shows the probe's verdict token by token.

Source: Yin et al. 2025, Refusal Falls Off a Cliff (2510.06036): the probe, contributions through
W_O and 3 % of heads are theirs. They study reasoning models, where the verdict falls between the
end of thinking and the answer; the last token is that point. From memory: the probe's layer, here
`site` or the last block; later blocks' heads can't reach it and stay. A norm behind W_O (Gemma 2
and 3) is left out of a contribution, so there the ranking is an approximation. The formula works
for any behaviour: positives are the texts that should show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Vector
from saesteer.data.contrast import Contrast
from saesteer.errors import ContrastError
from saesteer.features.activations import pooled_activations, read_activations
from saesteer.methods.base import Family, Method
from saesteer.methods.directions import logistic_direction, read_sides
from saesteer.methods.heads import head_sites, n_chosen
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Plan, affine
from saesteer.steer import all as everywhere

SHARE = 0.03
"""Heads that are silenced by default, as a share of all."""


@final
@dataclass(frozen=True)
class RefusalCliff(Method):
    """Silenced heads; `top_k` None takes the paper's share of them."""

    source: ClassVar[str] = "Yin et al. 2025, 2510.06036"
    needs: ClassVar[str] = "texts that should refuse, and others"
    family: ClassVar[Family] = "dense"

    top_k: int | None = None

    @property
    def name(self) -> str:
        """What the paper calls what it finds."""
        return "refusal cliff heads"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One edit for each layer that has a chosen head; `site` is the probe's.

        Raises:
            ConfigError: more heads are asked for than there are, or none.
            ContrastError: no head pulls the probe down.
        """
        model = as_model(model)
        place = _probed(model, site)
        top_k = n_chosen(model, self.name, self.top_k, SHARE)
        weight, _ = _probe(model, contrast, place)
        pulls = contributions(model, contrast, weight, place)
        lowest = pulls.flatten().sort(stable=True)
        kept = [int(i) for i, v in zip(lowest.indices, lowest.values, strict=True) if v < 0][:top_k]
        if not kept:
            raise ContrastError(f"{contrast.name}: no head pulls the probe at {place} down.")
        factors = torch.ones(*pulls.shape, model.layout.d_head)
        factors.view(-1, model.layout.d_head)[kept] = 0.0
        acts = [
            affine(Site(layer, "head_out"), each.flatten(), torch.zeros(each.numel()))
            for layer, each in enumerate(factors)
            if (each == 0).any()
        ]
        return Plan(*acts, where=everywhere(), name=self.name)

    def cliff(
        self, model: Model | Any, contrast: Contrast, site: Site | str | None = None
    ) -> list[Float[Tensor, " n_tokens"]]:
        """The probe's probability of refusal at each token of each validation positive."""
        model = as_model(model)
        place = _probed(model, site)
        weight, bias = _probe(model, contrast, place)
        texts = contrast.split("validation").positives
        return [(rows @ weight + bias).sigmoid() for rows in read_activations(model, texts, place)]


def contributions(
    model: Model, contrast: Contrast, weight: Vector, place: Site
) -> Float[Tensor, "layers heads"]:
    """w · W_O z of each head up to `place`, mean over the train positives' last tokens."""
    sites = [site for site in head_sites(model) if site.order < place.order]
    texts = contrast.split("train").positives
    shape = (model.layout.n_heads, model.layout.d_head)
    pulls: list[Tensor] = []
    for site, rows in pooled_activations(model, texts, sites, "last").items():
        read = weight @ model.layout.write_weight(site).cpu()
        pulls.append((rows.mean(0) * read).view(shape).sum(-1))
    return torch.stack(pulls)


def _probed(model: Model, site: Site | str | None) -> Site:
    return model.check_site(Site(model.n_layers - 1, "resid_post") if site is None else site)


def _probe(model: Model, contrast: Contrast, place: Site) -> tuple[Vector, float]:
    return logistic_direction(read_sides(model, contrast.split("train"), [place], "last")[place])
