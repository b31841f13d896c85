"""World-model edit: move an activation until a probe of the model's own state says what it should.

A probe with one hidden layer reads the state from h `[d_model]`, 1 for the positives. At every
position that chooses a generated token h takes `n_steps` steps along the gradient of the probe's
logit, each `step` × the root mean square norm of the train activations long, or as many as it takes
for the probability to exceed `confidence`; Δh is where that ends less h; strength scales it. With
several `layers` each has its own probe, and later ones read what earlier edits made.

Source: Li et al. 2022, Emergent World Representations (2210.13382): a nonlinear probe, gradient
steps on the activation, from one layer through all later ones, since later layers recompute the
state from other positions. Theirs descends a cross-entropy over board tiles with Adam for a fixed
number of steps. Steps of one length are a choice: their size does not hang on how sure the probe
is, and five of a twentieth add up to the dose of directions. A goal (`confidence`) is for probes
that read single tokens: one that learned from texts' means is sure of any token after a step or
none, so that on SmolLM2-135M an edit to 0.9 or 0.99 was 2 to 3 % of ‖h‖ and did nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError
from saesteer.features.activations import Pool
from saesteer.methods.base import Family, Method, sites_or_default
from saesteer.methods.directions import Sides, read_sides
from saesteer.methods.mlp_probe import UNREACHED, ProbeAscent, fit_mlp
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Plan, generated


@final
@dataclass(frozen=True)
class WorldModel(Method):
    """The probe's edit at `layers`, or at the site alone.

    Attributes:
        step: length of one step, as a share of the activations' RMS norm.
        confidence: the probability at which to stop; all steps are taken for None.
        read: how a text becomes one row for the probe.
    """

    source: ClassVar[str] = "Li et al. 2022, 2210.13382"
    needs: ClassVar[str] = "two groups of texts, one for each state"
    family: ClassVar[Family] = "dense"

    layers: Sequence[int] = ()
    n_hidden: int = 128
    n_steps: int = 5
    step: float = 0.05
    confidence: float | None = None
    read: Pool = "mean"
    seed: int = 0

    @property
    def name(self) -> str:
        """What the paper does."""
        return "world-model edit"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One edit a layer; see `Method.fit`.

        Raises:
            ConfigError: a confidence that no probability exceeds, or a step that goes nowhere.
        """
        sure = 0.5 if self.confidence is None else self.confidence
        if not (0 < sure < 1 and self.step > 0):
            raise ConfigError(
                f"{self.name}: confidence {self.confidence} and step {self.step}; expected between "
                "0 and 1, and above 0."
            )
        model = as_model(model)
        sites = sites_or_default(model, site, self.layers)
        read = read_sides(model, contrast.split("train"), sites, self.read)
        return Plan(*(self._act(*each) for each in read.items()), where=generated(), name=self.name)

    def _act(self, site: Site, sides: Sides) -> ProbeAscent:
        norm = float(sides.rows.square().sum(-1).mean().sqrt())
        sure = self.confidence
        goal = UNREACHED if sure is None else math.log(sure / (1 - sure))
        probe = fit_mlp(sides, self.n_hidden, self.seed)
        return ProbeAscent(site, probe, self.step * norm, self.n_steps, goal)
