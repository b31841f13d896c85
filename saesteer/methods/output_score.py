"""Output-score selection: of the features that fire on a behaviour, those that also say it.

`h += strength · dose · ‖h‖ · unit(Σ_j ŵ_j)` at every position that chooses a generated token, ŵ_j
the unit decoder rows `[d_model]` of the chosen features. Candidates are the `n_candidates` that
tell the train texts apart best; of those whose output score (`features.output_score`) is at least
`least`, the best at telling are steered, and without one the candidate of the highest score.
The score is the feature's own, the same whatever the behaviour: it asks whether pushing a feature
changes the next token as its decoder row promises, not in whose favour.

Source: Arad et al. 2025 (2505.20063), whose published gain on AxBench is two- to threefold. There
candidates are the features labelled with a concept, and those under a threshold are dropped; here a
contrast gives the candidates. The highest score is not what one wants: of the twelve for sentiment
the loudest by far (0.52) says something else, and pushed alone it moved sentiment no way. They
steer by one feature, chosen with its label; ranked by a contrast, three share the risk.
`FeatureSteering` asks the other question, which feature moves this contrast's texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

from saesteer.data.contrast import Contrast
from saesteer.errors import ContrastError
from saesteer.features.find import find_features
from saesteer.features.output_score import output_scores
from saesteer.methods.base import DOSE, Family, Method, check_sae_site
from saesteer.methods.directions import unit_sum
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.saes.sae import SAE
from saesteer.steer import Plan, add_scaled, generated

LEAST = 0.01
"""Output score below which a feature is dropped: near the authors' own threshold for Gemma 2, and
on the embedded model three of twelve candidates for sentiment pass it."""


@final
@dataclass(frozen=True)
class OutputScore(Method):
    """`n_features` of `n_candidates` features of the contrast, those that speak first."""

    source: ClassVar[str] = "Arad et al. 2025, 2505.20063"
    needs: ClassVar[str] = "an SAE, two groups of texts"
    family: ClassVar[Family] = "feature"
    takes_site: ClassVar[bool] = False

    sae: SAE
    n_features: int = 3
    n_candidates: int = 12
    least: float = LEAST
    dose: float = DOSE

    @property
    def name(self) -> str:
        """How features are chosen, and their number where it is not one."""
        return "output score" if self.n_features == 1 else f"output score, {self.n_features}"

    def ranked(self, model: Model | Any, contrast: Contrast) -> list[tuple[int, float]]:
        """Candidates with their output scores, best first; the train split alone is read.

        Raises:
            ContrastError: no feature fires on enough of the train texts.
        """
        model = as_model(model)
        found = find_features(model, self.sae, contrast, top=self.n_candidates)
        if not found:
            raise ContrastError(
                f"{contrast.name}: no feature of SAE {self.sae.name} fires on its train texts "
                "often enough to be ranked; add texts."
            )
        indices = [feature.index for feature in found]
        scores = output_scores(model, self.sae, indices)
        speaks = [score >= self.least for score in scores]
        order = sorted(
            range(len(indices)), key=lambda at: (0, at) if speaks[at] else (1, -scores[at])
        )
        return [(indices[at], scores[at]) for at in order]

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """The chosen features as a plan at the SAE's site; see `Method.fit`.

        Raises:
            DimensionError: the SAE is of another width.
        """
        model = as_model(model)
        check_sae_site(model, site, self.sae)
        features = [feature for feature, _ in self.ranked(model, contrast)[: self.n_features]]
        act = add_scaled(self.sae.site, self.dose * unit_sum(self.sae, features))
        return Plan(act, where=generated(), name=self.name)
