"""H-Neurons: the few neurons from which a sparse probe reads an unwanted behaviour, scaled.

A neuron's contribution to a token is CETT = |a_j| · ‖w_j‖ / ‖W a‖, w_j its column of the down
projection W; a text has the mean over its own tokens. A logistic regression with an L1 penalty
tells texts of the behaviour by all neurons at once; those of positive weight are the behaviour's,
and `a_j ← α · a_j` for them at every position. α = 0 silences them, above 1 amplifies; a plan's
strength s gives 1 + s (α − 1).

Source: Gao et al. 2025, H-Neurons (2512.01797) and their code: CETT, the probe (liblinear, L1,
C = 1), positive weights and α from 0 to 3 are theirs; they read hallucinated against right answers
at the answer's tokens, and find under 0.1 % of neurons. Here the negatives' neurons go unless
`remove="positives"`. Where the probe takes more than `share` of all neurons, those of the largest
weights are chosen. On the embedded model it takes 8 of 46,080 for the built-in sentiment pairs; a
penalty chosen on 30 held-out texts took 3, too few to tell from noise. The norm of W a is taken
without a bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.data.contrast import Contrast, Example
from saesteer.errors import ContrastError
from saesteer.features.activations import text_batches
from saesteer.methods.base import Family, Method, Side, check_optional_site
from saesteer.methods.neurons import neuron_maps, neuron_sites, smallest
from saesteer.methods.sparse_probe import sparse_weights
from saesteer.models import Model, as_model
from saesteer.models.limits import finite_rows
from saesteer.models.record import record
from saesteer.models.sites import Site
from saesteer.steer import Plan
from saesteer.steer import all as everywhere

BATCH = 4
"""Texts read at once: all layers' neurons of a batch are in memory together."""


@final
@dataclass(frozen=True)
class HNeurons(Method):
    """Scaled neurons of the behaviour that `remove` names.

    Attributes:
        alpha: what they are scaled by.
        share: of all neurons, the most that are chosen.
        c: of the probe; the larger, the more neurons it takes.
    """

    source: ClassVar[str] = "Gao et al. 2025, 2512.01797"
    needs: ClassVar[str] = "two groups of texts"
    family: ClassVar[Family] = "dense"
    takes_site: ClassVar[bool] = False

    remove: Side = "negatives"
    alpha: float = 0.0
    share: float = 0.001
    c: float = 1.0

    @property
    def name(self) -> str:
        """The paper's name."""
        return "H-Neurons"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One edit for each layer that has such a neuron, whatever `site` is; see `Method.fit`.

        Raises:
            SiteError: the model's neurons can't be reached.
            ContrastError: no neuron tells the behaviour.
        """
        model = as_model(model)
        check_optional_site(model, site)
        unwanted = int(self.remove == "positives")
        train = contrast.split("train").examples
        rows = contributions(model, train).flatten(1)
        labels = torch.tensor([example.label == unwanted for example in train])
        weight = sparse_weights(rows, labels, self.c).view(model.n_layers, -1)
        chosen = smallest(-weight, max(int(self.share * weight.numel()), 1)) & (weight > 0)
        if not chosen.any():
            raise ContrastError(f"{contrast.name}: no neuron tells its {self.remove} apart.")
        factors = torch.where(chosen, self.alpha, 1.0)
        return Plan(
            *neuron_maps(factors, torch.zeros_like(factors)), where=everywhere(), name=self.name
        )


def contributions(
    model: Model, examples: Sequence[Example]
) -> Float[Tensor, "texts layers neurons"]:
    """Mean CETT of every neuron over each text's own tokens, on the CPU."""
    sites = neuron_sites(model)
    found = torch.empty(len(examples), len(sites), model.layout.width(sites[0]))
    for batch in text_batches(model, examples, BATCH):
        seen = record(model, batch.tokens, sites)
        own = batch.own.to(seen[sites[0]].device)[..., None]
        for layer, site in enumerate(sites):
            weight, resid = model.layout.write_weight(site), seen[site].float()
            written = (resid @ weight.T).norm(dim=-1, keepdim=True)
            cett = resid.abs() * weight.norm(dim=0) / written.clamp_min(1e-8)
            mean = torch.where(own, cett, 0.0).sum(1) / own.sum(1)
            found[list(batch.rows), layer] = finite_rows(mean.cpu(), model, site)
    return found
