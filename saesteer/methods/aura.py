"""AurA: dampen every MLP neuron by how well it recognises what is to go.

`a ← a · (1 − 2(AUROC − 0.5))` for neurons with AUROC > 0.5 and a untouched otherwise, in all
layers and at every position. A neuron's AUROC is that of its maximum over a text's tokens, telling
texts of the unwanted behaviour from the others: 1 silences it, 0.5 leaves it. There is no strength.

Source: Suau et al. 2024, Whispering Experts (2407.12824), and their code (ml-aura), which labels
the texts to be suppressed 1. Here plans steer towards the positives, so the negatives' experts are
dampened unless `remove="positives"`. Neurons are the MLP's hidden activations, just before the down
projection; the paper takes the outputs of every linear layer of an MLP. Outlier tokens stay out of
the maximum. With few texts chance alone spreads AUROC (45 and 45: ±0.06), so half of all neurons
are dampened a little: the method's own property, and on the embedded model other neurons of each
layer dampened as much did the same to complaints. Mixtral's fused experts can't be reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.data.contrast import Contrast
from saesteer.errors import ContrastError
from saesteer.features.activations import pooled_activations
from saesteer.features.separation import auroc
from saesteer.methods.base import Family, Method, Side, check_optional_site
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Plan, affine
from saesteer.steer import all as everywhere


@final
@dataclass(frozen=True)
class AurA(Method):
    """Dampened neurons; `remove` is the side whose experts they are."""

    source: ClassVar[str] = "Suau et al. 2024, 2407.12824"
    needs: ClassVar[str] = "two groups of texts"
    family: ClassVar[Family] = "dense"
    takes_site: ClassVar[bool] = False
    has_strength: ClassVar[bool] = False

    remove: Side = "negatives"

    @property
    def name(self) -> str:
        """The paper's name."""
        return "AurA"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One edit a layer, whatever `site` is; see `Method.fit`.

        Memory: texts x neurons in fp32, and one layer's activations of one batch.

        Raises:
            SiteError: the model's neurons can't be reached.
            ContrastError: no neuron tells the texts apart.
        """
        model = as_model(model)
        check_optional_site(model, site)
        sites = [Site(layer, "neurons") for layer in range(model.n_layers)]
        train = contrast.split("train")
        peaks = pooled_activations(model, train.examples, sites, "max")
        unwanted = int(self.remove == "positives")
        expert_of = torch.tensor([example.label == unwanted for example in train.examples])
        factors = {place: dampening(auroc(rows, expert_of)) for place, rows in peaks.items()}
        acts = [affine(s, f, torch.zeros_like(f)) for s, f in factors.items() if (f < 1).any()]
        if not acts:
            raise ContrastError(f"{contrast.name}: no neuron tells its {self.remove} apart.")
        return Plan(*acts, where=everywhere(special=True), name=self.name)


def dampening(area: Float[Tensor, " neurons"]) -> Float[Tensor, " neurons"]:
    """What each neuron is multiplied by: 1 up to an AUROC of 0.5, falling to 0 at 1."""
    return 1.0 - 2.0 * (area - 0.5).clamp(min=0.0)
