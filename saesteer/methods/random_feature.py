"""A random feature: the null for "steering by features", where a random direction is too easy.

Decoder rows are not isotropic: they lie where activations vary, so any of them moves a model more
than noise does. A feature found for a behaviour should beat a feature found for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch

from saesteer.data.contrast import Contrast
from saesteer.errors import FeatureError
from saesteer.features.find import latent_stats
from saesteer.methods.base import (
    Family,
    Method,
    check_sae_site,
    difference_in_means,
    of_norm,
)
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.saes.sae import SAE
from saesteer.steer import Plan, add, generated


@final
@dataclass(frozen=True)
class RandomFeature(Method):
    """The decoder row of a feature drawn from those that fire on the contrast's train texts.

    `norm` is the added vector's Euclidean norm; None takes the CAA vector's at the same site.
    """

    source: ClassVar[str] = "control"
    needs: ClassVar[str] = "an SAE"
    family: ClassVar[Family] = "control"
    takes_site: ClassVar[bool] = False

    sae: SAE
    seed: int = 0
    norm: float | None = None

    @property
    def name(self) -> str:
        """The control's name, without its seed."""
        return "random feature"

    def draw(self, model: Model | Any, contrast: Contrast) -> int:
        """The index of the feature that this seed draws.

        Raises:
            FeatureError: no feature fires on the train texts.
        """
        train = contrast.split("train")
        fired = latent_stats(as_model(model), self.sae, train.examples).fired
        live = fired.nonzero().flatten()
        if not len(live):
            raise FeatureError(
                f"SAE {self.sae.name}: no feature fires on {contrast.name}; "
                "check that the SAE belongs to this model."
            )
        generator = torch.Generator().manual_seed(self.seed)
        return int(live[torch.randint(len(live), (), generator=generator)])

    def fit(
        self,
        model: Model | Any,
        contrast: Contrast,
        site: Site | str | None = None,
    ) -> Plan:
        """The feature's direction as a plan, added where CAA adds its vector; see `Method.fit`.

        It acts at the SAE's site, which is the only one that its decoder rows belong to.
        """
        model = as_model(model)
        check_sae_site(model, site, self.sae)
        place = self.sae.site
        row = self.sae.w_dec[self.draw(model, contrast)].detach().float().cpu()
        norm = self.norm
        if norm is None:
            norm = float(difference_in_means(model, contrast, place).norm())
        return Plan(add(place, of_norm(row, norm)), where=generated(), name=self.name)
