"""H-Neurons: the few neurons from which a sparse probe reads an unwanted behaviour, scaled.

A neuron's contribution to a token is CETT = |a_j| · ‖w_j‖ / ‖W a‖, w_j its column of the down
projection W; a text has the mean over its own tokens. A logistic regression with an L1 penalty
tells texts of the behaviour by all neurons at once; those of positive weight are the behaviour's,
and `a_j ← α · a_j` for them at every position. α = 0 silences them, above 1 amplifies; a plan's
strength s gives 1 + s (α − 1).

Source: Gao et al. 2025, H-Neurons (2512.01797) and their code: CETT, the probe (liblinear, L1) and
positive weights are theirs; they read hallucinated against right answers at the answer's tokens,
and find under 0.1 % of neurons. Here the negatives' neurons go unless `remove="positives"`.
Choices: the penalty is, of ten over two decades, the one that does best on the validation split
with no more than `share` of all neurons (the sparser on ties), where theirs is fixed for thousands
of answers; where even the sparsest has more, those of the largest weights. The norm of W a is taken
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
from saesteer.features.activations import finite_rows, text_batches
from saesteer.methods.base import Family, Method, Side, check_optional_site
from saesteer.methods.neurons import neuron_maps, neuron_sites, smallest
from saesteer.methods.sparse_probe import sparse_weights
from saesteer.models import Model, as_model
from saesteer.models.record import record
from saesteer.models.sites import Site
from saesteer.steer import Plan
from saesteer.steer import all as everywhere

BATCH = 4
"""Texts read at once: all layers' neurons of a batch are in memory together."""


@final
@dataclass(frozen=True)
class HNeurons(Method):
    """Scaled neurons of the behaviour that `remove` names; `alpha` is what they are scaled by."""

    source: ClassVar[str] = "Gao et al. 2025, 2512.01797"
    needs: ClassVar[str] = "two groups of texts, with a validation split"
    family: ClassVar[Family] = "dense"
    takes_site: ClassVar[bool] = False

    remove: Side = "negatives"
    alpha: float = 0.0
    share: float = 0.001

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
        train, held = (contrast.split(name).examples for name in ("train", "validation"))
        rows = [contributions(model, examples).flatten(1) for examples in (train, held)]
        labels = [torch.tensor([e.label == unwanted for e in each]) for each in (train, held)]
        limit = max(int(self.share * rows[0].shape[1]), 1)
        weight = sparse_weights(rows[0], labels[0], rows[1], labels[1], limit)
        chosen = smallest(-weight.view(model.n_layers, -1), limit) & (weight > 0).view(
            model.n_layers, -1
        )
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
