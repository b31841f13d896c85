"""Breaking Bad Tokens: subtract the features that fire on what is to go, always or when needed.

`h −= strength · Σ_j z_j^max · W_dec[j]` at positions that choose a generated token. The features
fire on more of the unwanted texts' tokens than of the others'; z_j^max is feature j's largest
activation on the unwanted texts, in latent units, so strength counts in maximum activations.
Three tiers: "constant" always; "input" in rows whose prompt makes any of them fire; "token" only at
tokens where any of them fires.

Source: Goyal et al. 2025 (2505.14536), whose features are those of toxic texts, by firing frequency
or activation. Uncertain, and chosen: frequency is taken less that on the other side's texts, or
features that fire everywhere would lead; one feature acts by default, of several any opens the gate
(three cost SmolLM2-135M five times the nats of one for no more effect); a prompt decides at its
end. Here plans steer towards the positives, so the negatives' features are subtracted unless
`remove="positives"`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch

from saesteer.data.contrast import Contrast
from saesteer.errors import ContrastError
from saesteer.features.concepts import Concept, FeatureReadout, concept_readers
from saesteer.features.find import latent_stats
from saesteer.methods.base import Family, Method, Side, check_sae_site
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.rules.gate import RuleGate
from saesteer.rules.syntax import Program
from saesteer.saes.sae import SAE
from saesteer.steer import Always, Edit, Gate, Plan, feature_add, generated


@final
@dataclass(frozen=True)
class BreakingBadTokens(Method):
    """Features subtracted, at one of three tiers; `remove` is the side whose features they are."""

    source: ClassVar[str] = "Goyal et al. 2025, 2505.14536"
    needs: ClassVar[str] = "an SAE, two groups of texts"
    family: ClassVar[Family] = "feature"
    takes_site: ClassVar[bool] = False

    sae: SAE
    tier: Literal["constant", "input", "token"] = "constant"
    n_features: int = 1
    remove: Side = "negatives"

    @property
    def name(self) -> str:
        """The paper's name, and the tier."""
        return f"Breaking Bad Tokens, {self.tier}"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """The features as a plan at the SAE's site; see `Method.fit`.

        Raises:
            DimensionError: the SAE is of another width.
            ContrastError: no feature fires more on the unwanted texts.
        """
        model = as_model(model)
        check_sae_site(model, site, self.sae)
        features, peaks = self._features(model, contrast)
        act = feature_add(self.sae, features, [-peak for peak in peaks])
        edit = Edit(act, where=generated(), gate=self._gate(features))
        return Plan(edit, name=self.name)

    def _features(self, model: Model, contrast: Contrast) -> tuple[list[int], list[float]]:
        """Which fire most in excess of the other side, and their largest activations."""
        train = contrast.split("train")
        sides = (train.negatives, train.positives)
        gone, kept = sides if self.remove == "negatives" else sides[::-1]
        unwanted, other = (latent_stats(model, self.sae, side) for side in (gone, kept))
        excess = unwanted.fired / max(unwanted.n_tokens, 1) - other.fired / max(other.n_tokens, 1)
        order = excess.argsort(descending=True, stable=True)[: self.n_features]
        features = order[excess[order] > 0].tolist()
        if not features:
            raise ContrastError(
                f"{contrast.name}: no feature of SAE {self.sae.name} fires more on its "
                f"{self.remove} than on the rest; add texts, or use another SAE."
            )
        return features, unwanted.peak[torch.tensor(features)].tolist()

    def _gate(self, features: list[int]) -> Gate:
        """A sum of activations exceeds 0 where any of them does."""
        if self.tier == "constant":
            return Always()
        readout = FeatureReadout(tuple(features), (1.0,) * len(features))
        aggregate = "prompt" if self.tier == "input" else "token"
        concept = Concept("unwanted", readout, 0.0, aggregate, "any")
        readers = tuple(concept_readers([concept], self.sae))
        return RuleGate(Program(()), (concept,), readers).head("unwanted")
