"""Representation engineering's control vectors: what paired activations differ by most.

`h += strength · v` at every position that chooses a generated token, v a principal component of the
differences h⁺ − h⁻ of pairs, at one layer or several at once. v `[width]` is `dose` times the
site's typical norm long, shared out over the layers; for None as long as the root mean square of
the differences along it, so that strength 1 undoes a typical difference at each of them.

Source: Zou et al. 2023, Representation Engineering (2310.01405); two ways to centre are those of
repeng (vgel). "pca_center" takes each pair about its own middle, which is the same as not centring
the differences: their mean counts, and it is mostly what one wants. "pca_diff" centres the
differences, which removes their mean and leaves how pairs vary; repeng's default, not ours. The
paper recentres differences of randomly ordered pairs, which in expectation is "pca_center".
Sign: most pairs have the positive further along v (both sources). Length: neither source has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

from saesteer.axes import Rows, Vector
from saesteer.data.contrast import Contrast
from saesteer.errors import ContrastError
from saesteer.features.activations import Pool, pooled_activations
from saesteer.methods.base import DOSE, ROUNDING, Family, Method, dosed, sites_or_default
from saesteer.methods.directions import principal_component
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Plan, add, generated


@final
@dataclass(frozen=True)
class RepE(Method):
    """A control vector.

    Attributes:
        centre: which component, see the module.
        layers: where to act, each with its own vector, at the site's kind; the site itself if none.
        read: how a text becomes one row; the sources read its last token.
    """

    source: ClassVar[str] = "Zou et al. 2023, 2310.01405"
    needs: ClassVar[str] = "pairs"
    family: ClassVar[Family] = "dense"

    centre: Literal["pca_center", "pca_diff"] = "pca_center"
    layers: Sequence[int] = ()
    read: Pool = "last"
    dose: float | None = DOSE

    @property
    def name(self) -> str:
        """The paper's name."""
        return "RepE"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One vector a layer; see `Method.fit`.

        Raises:
            ContrastError: no pairs, or pairs that don't differ.
        """
        model = as_model(model)
        sites = sites_or_default(model, site, self.layers)
        pairs = contrast.split("train").pairs()
        texts = [example for pair in pairs for example in pair]
        read = pooled_activations(model, texts, sites, self.read)
        share = None if self.dose is None else self.dose / len(sites)
        vectors = {at: self._vector(r[0::2], r[1::2], contrast) for at, r in read.items()}
        acts = [add(at, dosed(model, at, v, share)) for at, v in vectors.items()]
        return Plan(*acts, where=generated(), name=self.name)

    def _vector(self, positive: Rows, negative: Rows, contrast: Contrast) -> Vector:
        differences = positive - negative
        if not float(differences.norm()) > ROUNDING * float(positive.norm()):
            raise ContrastError(f"{contrast.name}: its pairs don't differ; check their texts.")
        return pair_direction(differences, centred=self.centre == "pca_diff")


def pair_direction(differences: Rows, *, centred: bool = False) -> Vector:
    """The principal component of differences h⁺ − h⁻, signed by the pairs, RMS long.

    A tie among the pairs goes to the sign of their mean.
    """
    rows = differences - differences.mean(0) if centred else differences
    unit = principal_component(rows)
    along = differences @ unit
    majority = float(along.sign().sum()) or float(along.sum())
    return unit * float(along.square().mean().sqrt()) * (-1.0 if majority < 0 else 1.0)
