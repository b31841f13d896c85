"""Steering by SAE features: found by contrast, chosen by what they do to the output.

A feature that fires on a behaviour need not cause it, so by default the candidates that separate
the train texts best are each added to the model while the validation texts are scored, and the one
that most favours the wanted texts is kept (2505.20063; published gain two- to threefold).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

from torch import Tensor

from saesteer.data.contrast import Contrast
from saesteer.errors import ContrastError, FeatureError
from saesteer.features.find import FoundFeature, find_features, max_activations
from saesteer.methods.base import DOSE, Family, Method, check_sae_site
from saesteer.methods.directions import unit_sum
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.saes.sae import SAE
from saesteer.steer import Plan, add_scaled, clamp, feature_add, generated

CLAMP_MULTIPLE = 2.0
"""The usual `multiple` of the feature's largest activation on the train texts, the unit in which
Templeton et al. 2024 and AxBench state theirs; a plan's strength moves it."""


@final
@dataclass(frozen=True)
class FeatureSteering(Method):
    """One feature or several, added in units of ‖h‖ or clamped.

    Attributes:
        feature: an index to use as it is; None finds `n_features` of them.
        select: "effect" ranks the `n_candidates` best by the output they cause on the validation
            split; "activation" takes those that separate the train texts best.
        mode: "add" adds the unit sum of unit decoder rows at strength × `dose` × ‖h‖; "clamp"
            holds each feature at `multiple` × its largest train activation, strength scaling the
            change; "add-max" adds that much to it, on or off.
        dose: share of ‖h‖ of "add".
        multiple: strength factor of "clamp" and "add-max".
    """

    source: ClassVar[str] = "Templeton et al. 2024; Arad et al. 2025, 2505.20063"
    needs: ClassVar[str] = "an SAE, pairs"
    family: ClassVar[Family] = "feature"
    takes_site: ClassVar[bool] = False

    sae: SAE
    feature: int | None = None
    n_features: int = 1
    select: Literal["effect", "activation"] = "effect"
    mode: Literal["add", "clamp", "add-max"] = "add"
    n_candidates: int = 12
    dose: float = DOSE
    multiple: float = CLAMP_MULTIPLE

    @property
    def name(self) -> str:
        """What is steered, and how where it is not the default."""
        noun = "feature" if self.n_features == 1 else f"{self.n_features} features"
        noun = noun if self.feature is None else f"feature {self.feature}"
        how = {"add": "", "clamp": ", clamped", "add-max": f", plus {self.multiple:g} x max"}
        return noun + how[self.mode]

    def find(self, model: Model | Any, contrast: Contrast) -> list[FoundFeature]:
        """The features this method would steer by, best first; reads train and validation only.

        Raises:
            ContrastError: no feature fires on enough of the train texts.
        """
        effects = self.n_candidates if self.select == "effect" else 0
        top = max(self.n_features, effects)
        found = find_features(as_model(model), self.sae, contrast, top=top, effects=effects)
        if not found:
            raise ContrastError(
                f"{contrast.name}: no feature of SAE {self.sae.name} fires on its train texts "
                "often enough to be ranked; add texts, or give feature=N."
            )
        return found[: self.n_features]

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """The features as a plan at the SAE's site; see `Method.fit`.

        Raises:
            FeatureError: `feature` lies outside the SAE, or has no maximum to count in.
        """
        model = as_model(model)
        check_sae_site(model, site, self.sae)
        place = self.sae.site
        features = self._features(model, contrast)
        if self.mode == "add":
            act = add_scaled(place, self.dose * unit_sum(self.sae, features))
            return Plan(act, where=generated(), name=self.name)
        peaks = _peaks(model, self.sae, contrast, features)
        make = clamp if self.mode == "clamp" else feature_add
        acts = [make(self.sae, f, self.multiple, unit=peaks) for f in features]
        return Plan(*acts, where=generated(), name=self.name)

    def _features(self, model: Model, contrast: Contrast) -> list[int]:
        if self.feature is not None:
            return list(self.sae.check_features([self.feature]))
        return [found.index for found in self.find(model, contrast)]


def _peaks(model: Model, sae: SAE, contrast: Contrast, features: Sequence[int]) -> Tensor:
    """Largest train activation of every feature, `[d_sae]`; above 0 for those that are steered."""
    peaks = max_activations(model, sae, contrast.split("train").examples)
    for feature in features:
        if not peaks[feature] > 0:
            raise FeatureError(
                f"feature {feature} never fires on {contrast.name}, so there is no activation to "
                'count in; choose another, or mode="add".'
            )
    return peaks
