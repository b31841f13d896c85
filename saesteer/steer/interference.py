"""Whether a plan's edits get in each other's way, and whether its dose is sane, measured on text.

For each pair of edits at one site: the cosine of what they add (of two subspaces, the largest
principal one) and the share of positions where both act. For each site: its typical norm, the
relative dose of all edits together, and the sum of what each would have alone; where the first is
far below the second, edits cancel. For each weight: how long its change is beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, final

import torch
from torch import Tensor

from saesteer.errors import PlanError
from saesteer.models import Model, Prompt, as_model
from saesteer.models.weights import relative_size
from saesteer.steer.edit import Edit
from saesteer.steer.norms import typical_norm
from saesteer.steer.plan import Plan
from saesteer.steer.records import Deed
from saesteer.steer.trace import Trace
from saesteer.steer.weights import WeightEdit

ABSURD_DOSE = 1.0
"""Relative dose from which on an edit is longer than the activation or the weight that it edits."""
ALIGNED = 0.5
"""Cosine from which on two edits that meet are worth a word."""
PROMPTS = (
    "Write a short note to the people next door about the noise last night.",
    "The ferry left the harbour a little after seven, and most of the passengers",
)
N_TOKENS = 16


@final
@dataclass(frozen=True)
class EditCheck:
    """One edit: how many positions it acted at, and its relative dose there alone."""

    edit: int
    label: str
    n_edited: int
    dose: float


@final
@dataclass(frozen=True)
class PairCheck:
    """Two edits of one site; `cosine` is None where what one adds has no direction of its own."""

    edits: tuple[int, int]
    site: str
    cosine: float | None
    overlap: float


@final
@dataclass(frozen=True)
class SiteCheck:
    """A site's norm budget."""

    site: str
    typical_norm: float
    dose: float
    sum_of_doses: float


@final
@dataclass(frozen=True)
class WeightCheck:
    """All changes of one weight together, in Frobenius norms; None for a weight of zeros."""

    parameter: str
    relative_size: float | None


@final
@dataclass(frozen=True)
class Interference:
    """What `check_interference` found; `warnings` says in words what deserves them."""

    edits: tuple[EditCheck, ...]
    pairs: tuple[PairCheck, ...]
    sites: tuple[SiteCheck, ...]
    weights: tuple[WeightCheck, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """One sentence for each pair or site that a user should look at."""
        told = [_warning(pair) for pair in self.pairs if pair.overlap and pair.cosine is not None]
        told += [
            f"at {site.site} the edits are longer than what they edit (dose {site.dose:.2g})"
            for site in self.sites
            if site.dose > ABSURD_DOSE
        ]
        told += [
            f"edits at {site.site} reach the MLP branch alone; the stream is edited at attn_out "
            "or resid_post"
            for site in self.sites
            if site.site.startswith("resid_mid")
        ]
        told += [
            f"the change of {weight.parameter} is longer than the weight itself "
            f"({weight.relative_size:.2g} times)"
            for weight in self.weights
            if (weight.relative_size or 0.0) > ABSURD_DOSE
        ]
        return [text for text in told if text]

    def refuse_absurd(self) -> None:
        """Say no to a dose that leaves nothing of the activation or of the weight.

        Raises:
            PlanError: naming the site or the weight and its dose.
        """
        doses = [(site.dose, f"at {site.site}", "activation") for site in self.sites]
        doses += [(w.relative_size or 0.0, f"on {w.parameter}", "weight") for w in self.weights]
        worst, place, edited = max(doses, default=(0.0, "", ""))
        if worst > ABSURD_DOSE:
            raise PlanError(
                f"relative dose {worst:.3g} {place}: what is added is longer than the {edited}; "
                f"expected at most {ABSURD_DOSE:g}. Lower the strength, or allow it with "
                "--allow-dose."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "warnings": self.warnings}


def check_interference(
    plan: Plan, model: Model | Any, prompts: Sequence[Prompt] | None = None
) -> Interference:
    """Run a plan on a few prompts and look at what its edits do to each other.

    Args:
        prompts: two built-in ones for None; a plan whose gates stay shut there shows nothing.

    Raises:
        SiteError, DimensionError, PlanError: the model can't carry the plan out.
    """
    model = as_model(model)
    with plan.on(model) as trace:
        model.generate(list(prompts or PROMPTS), max_new_tokens=N_TOKENS)
    counts = trace.summary()["edits"]
    edits = tuple(
        EditCheck(i, edit.label, counts[i]["n_edited"], counts[i]["dose"])
        for i, edit in enumerate(plan.edits)
    )
    pairs = tuple(
        PairCheck((i, j), str(a.intervention.site), _cosine(a, b), _overlap(trace, i, j))
        for (i, a), (j, b) in combinations(enumerate(plan.edits), 2)
        if a.intervention.site == b.intervention.site
    )
    sites = dict.fromkeys(edit.intervention.site for edit in plan.edits)
    budget = tuple(
        SiteCheck(
            str(site),
            typical_norm(model, site),
            trace.dose(site),
            sum(
                e.dose
                for e, p in zip(edits, plan.edits, strict=True)
                if p.intervention.site == site
            ),
        )
        for site in sites
    )
    return Interference(edits, pairs, budget, _weights(plan, model))


def _weights(plan: Plan, model: Model) -> tuple[WeightCheck, ...]:
    changes: dict[str, list[tuple[WeightEdit, float]]] = {}
    for edit in plan.weight_edits:
        changes.setdefault(edit.parameter, []).append((edit, plan.strength * edit.strength))
    return tuple(WeightCheck(name, relative_size(model.hf, some)) for name, some in changes.items())


def _warning(pair: PairCheck) -> str:
    assert pair.cosine is not None
    first, second = pair.edits
    if pair.cosine < -ALIGNED:
        return f"edits {first} and {second} at {pair.site} cancel (cosine {pair.cosine:.2f})"
    if pair.cosine > ALIGNED:
        return f"edits {first} and {second} at {pair.site} add up (cosine {pair.cosine:.2f})"
    return ""


def _cosine(a: Edit, b: Edit) -> float | None:
    """Signed for two vectors that are only added; of spans, the largest there is."""
    spans = [edit.intervention.span() for edit in (a, b)]
    if spans[0] is None or spans[1] is None:
        return None
    vectors = [edit.intervention.added() for edit in (a, b)]
    if vectors[0] is not None and vectors[1] is not None:
        signs = a.strength * b.strength
        cosine = torch.cosine_similarity(vectors[0], vectors[1], dim=0)
        return float(cosine) * (1.0 if signs > 0 else -1.0)
    bases = [torch.linalg.qr(span.T.float()).Q for span in spans if span is not None]
    return float(torch.linalg.matrix_norm(bases[0].T @ bases[1], ord=2))


def _overlap(trace: Trace, first: int, second: int) -> float:
    """Positions where both edits acted, as a share of those where one did."""
    both = either = 0
    for record in trace.passes:
        a, b = _mask(record.deeds, first), _mask(record.deeds, second)
        if a is not None and b is not None:
            both += int((a & b).sum())
            either += int((a | b).sum())
    return both / max(either, 1)


def _mask(deeds: Sequence[Deed], edit: int) -> Tensor | None:
    return next((deed.mask for deed in deeds if deed.edit == edit), None)
