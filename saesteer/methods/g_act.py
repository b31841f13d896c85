"""G-ACT: a few steering vectors at a site, and a probe that picks one for each activation.

The differences h⁺ − h⁻ of pairs `[pairs, width]` fall into k clusters (k-means); a multinomial
logistic probe is fitted to tell a pair's cluster from h⁻ alone. At every position that chooses a
generated token `h += strength · α c_j`, c_j the centroid of the cluster that the probe names at h.
α brings their mean length to `dose` times the site's typical norm, shared out over the layers, and
is 1 for None.

Source: Sharma and Raman 2025, Steering Conceptual Bias via Transformer Latent-Subspace Activation
(2506.18887), after ACT (Wang et al. 2024, 2406.00034): clustered differences of prompts, a
lightweight linear probe on every steered layer's residual, the predicted cluster's vector added to
that residual. Uncertain in the paper and chosen here: the probe learns from the negatives, since
what is to be steered is not yet positive; the vector is the plain centroid; each position asks the
probe anew, so an answer never depends on the other positions. Their probes are refined by gradient
steps while the model runs ("online"); a plan is a fixed value, so here the probe is fitted to
convergence beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saesteer.axes import Rows
from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError
from saesteer.features.activations import Pool, pooled_activations
from saesteer.methods.base import DOSE, Family, Method, dosed, sites_or_default
from saesteer.methods.directions import logistic_weights
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Plan, generated
from saesteer.steer.chosen import AddChosen


@final
@dataclass(frozen=True)
class GACT(Method):
    """`n_clusters` vectors a layer; `layers` as in `RepE`, `read` is how a text becomes one row."""

    source: ClassVar[str] = "Sharma and Raman 2025, 2506.18887"
    needs: ClassVar[str] = "pairs"
    family: ClassVar[Family] = "dense"

    n_clusters: int = 3
    layers: Sequence[int] = ()
    read: Pool = "mean"
    dose: float | None = DOSE
    seed: int = 0

    @property
    def name(self) -> str:
        """The paper's name."""
        return "G-ACT"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One edit a layer; see `Method.fit`.

        Raises:
            ConfigError: fewer different pairs than clusters.
        """
        model = as_model(model)
        sites = sites_or_default(model, site, self.layers)
        texts = [example for pair in contrast.split("train").pairs() for example in pair]
        read = pooled_activations(model, texts, sites, self.read)
        acts = [
            self._act(model, at, rows[0::2] - rows[1::2], rows[1::2], len(sites))
            for at, rows in read.items()
        ]
        return Plan(*acts, where=generated(), name=self.name)

    def _act(
        self, model: Model, site: Site, differences: Rows, start: Rows, n_sites: int
    ) -> AddChosen:
        from sklearn.cluster import KMeans

        n_pairs = len(torch.unique(differences, dim=0))
        if n_pairs < self.n_clusters:
            raise ConfigError(
                f"{self.name}: {n_pairs} different pairs at {site} make no {self.n_clusters} "
                "clusters; give more pairs or fewer clusters."
            )
        restarts: Any = 10  # the stubs know the word "auto" alone
        means = KMeans(self.n_clusters, n_init=restarts, random_state=self.seed)
        labels = torch.from_numpy(means.fit_predict(differences.double().numpy())).long()
        centroids = torch.stack([differences[labels == j].mean(0) for j in range(self.n_clusters)])
        if self.dose is not None:
            length = float(dosed(model, site, centroids[0], self.dose / n_sites).norm())
            centroids = centroids * (length / centroids.norm(dim=-1).mean())
        return AddChosen(site, centroids, *cluster_probe(start, labels, self.n_clusters))


def cluster_probe(
    rows: Rows, labels: Int[Tensor, " n"], n_clusters: int
) -> tuple[Float[Tensor, "k d_model"], Float[Tensor, " k"]]:
    """Weight and bias of a logistic regression over the clusters; none with one cluster."""
    weight, bias = torch.zeros(n_clusters, rows.shape[1]), torch.zeros(n_clusters)
    if n_clusters == 1:
        return weight, bias
    at = slice(1, 2) if n_clusters == 2 else slice(None)  # two classes have one row of weights
    weight[at], bias[at] = logistic_weights(rows, labels)
    return weight, bias
