"""Directional ablation: keep the model from ever writing along one direction.

`h ← h − (h·v̂)v̂` at resid_pre, attn_out and mlp_out of every layer and at every position, so the
direction is out of the whole stream. v is a difference in means at one layer and position, chosen
for what its ablation does to the validation texts. There is no strength: the direction is out.

Source: Arditi et al. 2024 (2406.11717) and their code (refusal_direction): the same three places;
candidates at every layer but the last fifth. Choices: their positions are the template's tokens
after an instruction, here a text's last tokens and the mean over it; they rank candidates by a
refusal score, here the `n_candidates` that separate the validation texts best (Cohen's d along v)
are ablated, and the one that most favours the kept side's texts over the removed side's (nats per
token) wins; their filters by KL and by steering need no part in that.
With `others`, RepIt (Siu et al. 2025, 2509.13281): v minus its projection on the span of the other
concepts' vectors, so they stay. The paper reweights those vectors first; here they are as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, final

from saesteer.axes import Vector
from saesteer.data.contrast import Contrast
from saesteer.features.effects import change_effects
from saesteer.methods.base import Family, Method, Side, check_optional_site, read_contrast
from saesteer.methods.directions import isolated, read_sides, separation
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Plan, project_out
from saesteer.steer import all as everywhere

Position = Literal["mean", "last"]
LAST_LAYERS = 0.2
"""Share of layers, the last ones, that give no candidates: the authors' setting."""


class _Candidate(NamedTuple):
    separation: float
    vector: Vector


@final
@dataclass(frozen=True)
class DirectionalAblation(Method):
    """One direction taken out.

    Attributes:
        others: contrasts (or their names) of concepts that must stay; RepIt's.
        remove: the side whose behaviour goes; a direction has no sides, but the choice of one does.
        positions: where in a text candidates are read.
        n_candidates: how many are tried on the model.
    """

    source: ClassVar[str] = "Arditi et al. 2024, 2406.11717; RepIt: Siu et al. 2025, 2509.13281"
    needs: ClassVar[str] = "pairs, with a validation split; RepIt: other concepts' contrasts"
    family: ClassVar[Family] = "dense"
    takes_site: ClassVar[bool] = False
    has_strength: ClassVar[bool] = False

    others: Sequence[Contrast | str] = ()
    remove: Side = "negatives"
    positions: Sequence[Position] = ("mean", "last")
    n_candidates: int = 8

    @property
    def name(self) -> str:
        """The papers' names."""
        return "RepIt" if self.others else "directional ablation"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """Three edits a layer, whatever `site` is; see `Method.fit`.

        Raises:
            ContrastError: no candidate, or one in the span of the other concepts' vectors.
        """
        model = as_model(model)
        check_optional_site(model, site)
        ranked = sorted(self._candidates(model, contrast), key=lambda c: -c.separation)
        plans = [self._plan(model, c.vector) for c in ranked[: self.n_candidates]]
        changes = (plan.on(model) for plan in plans)
        effects = change_effects(model, contrast.split("validation"), changes)
        sign = 1.0 if self.remove == "negatives" else -1.0
        best = max(range(len(plans)), key=lambda i: sign * effects[i].mean)
        return plans[best]

    def _candidates(self, model: Model, contrast: Contrast) -> list[_Candidate]:
        n_layers = max(int(model.n_layers * (1 - LAST_LAYERS)), 1)
        sites = [Site(layer, "resid_post") for layer in range(n_layers)]
        splits = contrast.split("train"), contrast.split("validation")
        found: list[_Candidate] = []
        for position in self.positions:
            train, held = (read_sides(model, split, sites, position) for split in splits)
            others = [
                read_sides(model, read_contrast(other).split("train"), sites, position)
                for other in self.others
            ]
            for site in sites:
                spans = [side[site].difference for side in others]
                vector = isolated(train[site].difference, spans, f"{contrast.name} at {site}")
                found.append(_Candidate(separation(held[site], vector), vector))
        return found

    def _plan(self, model: Model, vector: Vector) -> Plan:
        kinds = ("resid_pre", "attn_out", "mlp_out")
        sites = [Site(layer, kind) for layer in range(model.n_layers) for kind in kinds]
        acts = [project_out(site, vector) for site in sites]
        return Plan(*acts, where=everywhere(special=True), name=self.name)
