"""Broad skills and several behaviours: each behaviour's vector at a layer of its own, all at once.

`h_l += strength · s_i · v_i` at layer l = l_i for behaviour i, at every position that chooses a
generated token; v_i is behaviour i's difference in means there at `dose` times the site's typical
norm (as it is for None), s_i its own strength. Adding all
vectors at one layer instead, or their mean, is what the paper finds to fail.

Source: van der Weij et al. 2024, Extending Activation Steering to Broad Skills and Multiple
Behaviours (2403.05767). They read pairs as CAA does, and for broad skills (code, text) whole
passages; both are read here as the mean over a text's own tokens. They find each behaviour's layer
by a grid search over steered outputs. Here, unless `layers` gives them, each behaviour in turn
takes the free layer whose vector separates its validation texts best (Cohen's d), the last fifth
left out; the contrast itself takes `site` where one is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

from saesteer.axes import Vector
from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError
from saesteer.methods.base import (
    DOSE,
    Family,
    Method,
    difference_in_means,
    dosed,
    read_contrast,
    site_or_default,
)
from saesteer.methods.directions import read_sides, separation
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Edit, Plan, add

LAST_LAYERS = 0.2
"""Share of layers, the last ones, that are not searched: little computation is left to steer."""


@final
@dataclass(frozen=True)
class BroadSkills(Method):
    """One vector for the contrast and one for each of `others` (contrasts, or their names).

    Attributes:
        layers: one each, the contrast's first; found if left out.
        strengths: one each; all 1 if left out. A negative one steers away.
    """

    source: ClassVar[str] = "van der Weij et al. 2024, 2403.05767"
    needs: ClassVar[str] = "two groups of texts for each behaviour, with a validation split"
    family: ClassVar[Family] = "dense"

    others: Sequence[Contrast | str] = ()
    layers: Sequence[int] = ()
    strengths: Sequence[int | float] = ()
    dose: float | None = DOSE

    @property
    def name(self) -> str:
        """What it does, in the paper's words."""
        return "simultaneous steering"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One edit a behaviour, the contrast's first; see `Method.fit`.

        Raises:
            ConfigError: another number of layers or strengths than of behaviours, or one layer
                for two of them.
        """
        model = as_model(model)
        behaviours = [contrast, *(read_contrast(other) for other in self.others)]
        self._check(model, len(behaviours))
        sites = self._sites(model, behaviours, site)
        strengths = self.strengths or [1.0] * len(behaviours)
        edits = [
            Edit(add(at, self._vector(model, each, at)), strength=strength)
            for each, at, strength in zip(behaviours, sites, strengths, strict=True)
        ]
        return Plan(*edits, name=self.name)

    def _vector(self, model: Model, behaviour: Contrast, site: Site) -> Vector:
        return dosed(model, site, difference_in_means(model, behaviour, site), self.dose)

    def _check(self, model: Model, n: int) -> None:
        for noun, given in (("layers", self.layers), ("strengths", self.strengths)):
            if given and len(given) != n:
                raise ConfigError(f"{self.name}: {len(given)} {noun} for {n} behaviours.")
        if len(set(self.layers)) < len(self.layers):
            raise ConfigError(f"{self.name}: layers {list(self.layers)} has one twice.")
        if n > (most := _n_searched(model)):
            raise ConfigError(f"{self.name}: {n} behaviours for {most} layers of {model.name}.")

    def _sites(
        self, model: Model, behaviours: Sequence[Contrast], site: Site | str | None
    ) -> list[Site]:
        kind = site_or_default(model, site).kind
        if self.layers:
            return [model.check_site(Site(layer, kind)) for layer in self.layers]
        chosen = [] if site is None else [model.check_site(site)]
        free = [Site(layer, kind) for layer in range(_n_searched(model))]
        for behaviour in behaviours[len(chosen) :]:
            free = [each for each in free if each not in chosen]
            chosen.append(_most_separable(model, behaviour, free))
        return chosen


def _n_searched(model: Model) -> int:
    return max(int(model.n_layers * (1 - LAST_LAYERS)), 1)


def _most_separable(model: Model, behaviour: Contrast, sites: Sequence[Site]) -> Site:
    train, held = (
        read_sides(model, behaviour.split(name), sites, "mean") for name in ("train", "validation")
    )
    return max(sites, key=lambda site: separation(held[site], train[site].difference))
