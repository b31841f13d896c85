"""Dynamic Activation Composition: each property is steered as hard as it would still change.

At every step t and for each property i, with v_i the difference in means of its contrast `[width]`
at `dose` times the site's typical norm (as it is for None), p⁰ the next-token distribution of the
same text unsteered and pⁱ that with α_max · v_i added at every position from the last prompt token
on, both cut to the union of their top-p tokens and renormalised:

    α_t,i = clip(KL(pⁱ ‖ p⁰), 0, α_max) in nats,    h_t += strength · Σ_i α_t,i v_i

Positions keep the α that they were read with. The three kinds of pass (unsteered, one per property,
composed) keep a KV cache each, so a step costs 2 + n passes of one token.

Source: Scalena, Sarti and Nissim 2024 (2406.17563) and its code: α_max = 2, top-p 0.95 over the
union, prefixes as above, but recomputed at each step. The paper writes KL(steered ‖ unsteered) and
that is computed here; the code takes the other order, and the mean over the kept tokens in the
place of the sum. There v_i differs by step and head and comes from few-shot prompts; here it is one
vector at one site, from free texts. Strength multiplies what is added, not what α is read from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

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
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Edit, KlDials, Plan, add, dial, generated, key_of


@final
@dataclass(frozen=True)
class DynamicActivationComposition(Method):
    """The contrast's property, composed with those of `others`.

    Attributes:
        others: contrasts of further properties, or their names.
        alpha_max: the strength that α is read at, and the most that it can be.
        top_p: share of the probability that counts.
        dose: of each v_i: where α is 1.
    """

    source: ClassVar[str] = "Scalena et al. 2024, 2406.17563"
    needs: ClassVar[str] = "two groups of texts per property"
    family: ClassVar[Family] = "dense"

    others: Sequence[Contrast | str] = ()
    alpha_max: float = 2.0
    top_p: float = 0.95
    dose: float | None = DOSE

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: alpha_max is not positive, or top_p no share.
        """
        super().__post_init__()
        if not self.alpha_max > 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"DynamicActivationComposition: alpha_max {self.alpha_max} must be above 0 and "
                f"top_p {self.top_p} in (0, 1]."
            )

    @property
    def name(self) -> str:
        """The paper's name."""
        return "Dynamic Activation Composition"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One edit and one dial per property, and the control that turns them; see `Method.fit`."""
        model = as_model(model)
        place = site_or_default(model, site)
        contrasts = [contrast, *(read_contrast(other) for other in self.others)]
        vectors = [
            dosed(model, place, difference_in_means(model, each, place), self.dose)
            for each in contrasts
        ]
        keys = tuple(key_of(f"property {i}", v) for i, v in enumerate(vectors))
        edits = [
            Edit(add(place, vector), where=generated(), schedule=dial(key))
            for key, vector in zip(keys, vectors, strict=True)
        ]
        return Plan(*edits, KlDials(keys, self.alpha_max, self.top_p), name=self.name)
