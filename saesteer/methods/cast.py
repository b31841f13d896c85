"""Conditional activation steering: add a behaviour's vector where the prompt meets a condition.

`h += strength · v` at every position that chooses a generated token, in the rows whose prompt has
cos(m, tanh(P m)) above (or below) θ: m the mean of the prompt's activations or its last token's,
P = c cᵀ / cᵀc. v and c `[width]` are principal components of paired differences (`RepE`), v at
`dose` times the site's typical norm. The condition's layer, θ and side are those of the best F1 on
the condition's validation split.

Source: Lee et al. 2024 (2409.05907) and its code (IBM activation-steering). There θ runs over 0 to
1 in steps of 0.01; here over the midpoints between the scores seen, which finds every split that a
finer grid could. The prompt decides at its end, the last prompt token on, and for its own row: the
code decides for row 0. Layers after the site are not searched, since a pass reaches them too late.
Special tokens and massive ones (over 4 times the site's typical norm) are left out of m: they are
the same for all prompts and would drown the rest. On ties the wider gap between scores wins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, final

from torch import Tensor

from saesteer.axes import Vector
from saesteer.data.contrast import Contrast
from saesteer.features.activations import pooled_activations
from saesteer.methods.base import DOSE, Family, Method, read_contrast, site_or_default
from saesteer.methods.directions import read_sides
from saesteer.methods.repe import RepE, pair_direction
from saesteer.metrics.outliers import OUTLIER_FACTOR
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Edit, Plan, PromptCondition, condition_score, generated
from saesteer.steer.norms import typical_norm


class _Point(NamedTuple):
    """One setting of the condition; the largest is the best."""

    f1: float
    gap: float
    layer: int
    threshold: float
    above: bool
    vector: Vector


@final
@dataclass(frozen=True)
class CAST(Method):
    """A control vector behind a condition.

    Attributes:
        condition: prompts that should (1) and should not (0) trigger it, or a name; None takes the
            behaviour's own texts.
        over: what of the prompt the condition reads.
    """

    source: ClassVar[str] = "Lee et al. 2024, 2409.05907"
    needs: ClassVar[str] = "pairs; a condition's pairs, with a validation split"
    family: ClassVar[Family] = "dense"

    condition: Contrast | str | None = None
    over: Literal["mean", "last"] = "mean"
    dose: float | None = DOSE

    @property
    def name(self) -> str:
        """The paper's name."""
        return "CAST"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """The behaviour's vector behind the best condition; see `Method.fit`."""
        model = as_model(model)
        place = site_or_default(model, site)
        vector = RepE(read="mean", dose=self.dose)
        behaviour = vector.fit(model, contrast, place).edits[0].intervention
        when = contrast if self.condition is None else read_contrast(self.condition)
        gate = self._gate(model, when, place)
        return Plan(Edit(behaviour, where=generated(), gate=gate), name=self.name)

    def _gate(self, model: Model, when: Contrast, place: Site) -> PromptCondition:
        sites = [Site(layer, place.kind) for layer in range(place.layer + 1)]
        pairs = [example for pair in when.split("train").pairs() for example in pair]
        train = pooled_activations(model, pairs, sites, self.over)
        held = read_sides(model, when.split("validation"), sites, self.over)
        points: list[_Point] = []
        for site in sites:
            vector = pair_direction(train[site][0::2] - train[site][1::2])
            scores = condition_score(held[site].rows, vector)
            labels = held[site].labels > 0.5
            points += (_Point(*p, vector) for p in _splits(scores, labels, site.layer))
        best = max(points, key=lambda point: (*point[:2], -point.layer))
        site = Site(best.layer, place.kind)
        limit = OUTLIER_FACTOR * typical_norm(model, site)
        return PromptCondition(site, best.vector, best.threshold, best.above, self.over, limit)


def _splits(
    scores: Tensor, labels: Tensor, layer: int
) -> Iterator[tuple[float, float, int, float, bool]]:
    """F1, gap, layer, threshold and side for every way to cut the scores in two."""
    ordered = scores.double().sort().values
    gaps = ordered[1:] - ordered[:-1]
    for low, gap in zip(ordered[:-1], gaps, strict=True):
        threshold = float(low + gap / 2)
        for above in (True, False):
            met = scores > threshold if above else scores < threshold
            hits = int((met & labels).sum())
            f1 = 2 * hits / max(int(met.sum() + labels.sum()), 1)
            yield f1, float(gap), layer, threshold, above
