"""SAE-targeted steering: the vector whose effects on the output are one feature and little else.

Unit vectors x `[n, d_model]` are added one by one while short texts are generated, and each one's
effect y `[n, d_sae]` is what the features' mean activations on those texts, read by the unsteered
model, are above the unsteered texts'. A linear map y = x W + b is fitted by ridge regression and
inverted for feature j:

    s = W_j / ‖W_j‖ − W b / ‖W b‖,    h += strength · dose · ‖h‖ · s / ‖s‖

at positions that choose a generated token. W_j is the direction that raises j most, W b the one
that raises what every vector raises (the text falling apart): it is taken out.

Source: Chalnev et al. 2024 (2411.02193) and their code. There n is all decoder rows of a 16k SAE,
each scaled to a loss; here it is `n_vectors`, at one share of the site's typical norm, drawn at
random (or "decoder", the rows of the contrast's best features), decoded greedily, so that a fit
takes minutes. With fewer vectors than d_model the map knows only their span and ridge shrinks the
rest. The feature, unless given, is the contrast's best by activation that any vector brings about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saesteer.axes import Rows, Vector
from saesteer.data.contrast import Contrast
from saesteer.errors import FeatureError
from saesteer.features.find import find_features
from saesteer.methods.base import DOSE, Family, Method, check_sae_site
from saesteer.methods.output_effects import PROMPTS, output_effects
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.saes.sae import SAE
from saesteer.steer import Plan, add_scaled, generated

RIDGE = 0.1
"""Penalty on W with unit vectors for inputs; below 1, so that a vector's own effect dominates."""


@final
@dataclass(frozen=True)
class SAETS(Method):
    """A vector made for one feature's effect, read and added at `dose`, a share of ‖h‖."""

    source: ClassVar[str] = "Chalnev et al. 2024, 2411.02193"
    needs: ClassVar[str] = "an SAE, prompts, two groups of texts or a feature"
    family: ClassVar[Family] = "feature"
    takes_site: ClassVar[bool] = False

    sae: SAE
    feature: int | None = None
    vectors: Literal["random", "decoder"] = "random"
    n_vectors: int = 128
    n_tokens: int = 16
    dose: float = DOSE
    prompts: Sequence[str] = PROMPTS
    seed: int = 0

    @property
    def name(self) -> str:
        """The paper's name."""
        return "SAE-TS"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """The targeted vector as a plan at the SAE's site; see `Method.fit`.

        Raises:
            FeatureError: the feature lies outside the SAE, or no vector brings it about.
            DimensionError: the SAE is of another width.
        """
        model = as_model(model)
        check_sae_site(model, site, self.sae)
        ranked = [f.index for f in find_features(model, self.sae, contrast, top=self.n_vectors)]
        if self.feature is None and not ranked:
            raise FeatureError(f"no feature of SAE {self.sae.name} fires on {contrast.name}.")
        wanted = ranked if self.feature is None else self.sae.check_features([self.feature])
        units = self._units(list(dict.fromkeys([*wanted, *ranked])))
        effects = output_effects(model, self.sae, units, self.dose, self.prompts, self.n_tokens)
        moved = effects.amax(0) > effects.amin(0)
        target = next((feature for feature in wanted if moved[feature]), wanted[0])
        vector = target_direction(units, effects, target)
        return Plan(
            add_scaled(self.sae.site, self.dose * vector), where=generated(), name=self.name
        )

    def _units(self, features: list[int]) -> Rows:
        """The unit vectors whose effects are measured."""
        if self.vectors == "decoder":
            rows = self.sae.w_dec[features[: self.n_vectors]].detach().float().cpu()
        else:
            generator = torch.Generator().manual_seed(self.seed)
            rows = torch.randn(self.n_vectors, self.sae.d_model, generator=generator)
        return functional.normalize(rows, dim=-1)


def target_direction(units: Rows, effects: Float[Tensor, "n d_sae"], feature: int) -> Vector:
    """Unit vector towards one feature's effect and away from what all vectors do.

    Raises:
        FeatureError: no vector changed the feature.
    """
    from sklearn.linear_model import Ridge

    fitted = Ridge(alpha=RIDGE).fit(units.double().numpy(), effects.double().numpy())
    weight = torch.from_numpy(fitted.coef_).T  # [d_model, d_sae]
    bias = torch.from_numpy(fitted.intercept_)
    if not float(weight[:, feature].norm()) > 0:
        raise FeatureError(
            f"feature {feature} is the same in every steered text, so no vector towards it can be "
            "learnt; choose another, or raise dose, n_vectors or n_tokens."
        )
    towards = functional.normalize(weight[:, feature], dim=0)
    return functional.normalize(towards - functional.normalize(weight @ bias, dim=0), dim=0).float()
