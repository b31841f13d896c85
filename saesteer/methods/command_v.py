"""Command-V: paste another model's intervention, through linear maps between the two models.

The same prompts run through donor and recipient; their last tokens' activations at two matching
sites are P_d `[prompts, d_donor]` and P_r `[prompts, d_model]`. C_to = P_r⁺ P_d carries the
recipient's activations over and C_back = P_d⁺ P_r brings changes back (⁺ the pseudo-inverse):
`h += strength · I(h C_to) C_back`, I the Δh of one of the donor's edits. The plan is saved with its
converters and the donor's intervention, and needs the donor no more.

Source: Wang et al. 2025, Command-V (2506.19140), whose donor edits are ReFT adapters; here any
edit will do that acts by position: gates and reading schedules read the donor, and a dial is set
by a control, which can't go along. A donor's layer goes with the recipient's of the same relative
depth, at the same kind of site (from memory of the paper: depth, too). Singular values below
`cutoff` of the largest count as zero: as many prompts as dimensions make a fit that follows its own
noise. Without `prompts` each train text of the contrast gives one for each of its words, up to
there: the ends of some dozen texts span so little that a model which is its own donor got a third
of its vector back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Rows
from saesteer.data.contrast import Contrast
from saesteer.errors import DataError, PlanError
from saesteer.features.activations import pooled_activations
from saesteer.methods.base import Family, Method, check_optional_site
from saesteer.models import Model, as_model, load_model
from saesteer.models.sites import Site
from saesteer.steer import Always, Edit, Plan
from saesteer.steer.checks import ready
from saesteer.steer.pasted import Pasted
from saesteer.steer.schedule import Dial, ReadingSchedule


@final
@dataclass(frozen=True)
class CommandV(Method):
    """A donor model (or its name) and a plan of its own (or its folder).

    Attributes:
        prompts: what both models read to be compared; the more different, the better.
    """

    source: ClassVar[str] = "Wang et al. 2025, 2506.19140"
    needs: ClassVar[str] = "a donor model with a plan, shared prompts"
    family: ClassVar[Family] = "dense"
    takes_site: ClassVar[bool] = False

    donor: Model | str
    plan: Plan | str
    prompts: Sequence[str] = ()
    cutoff: float = 1e-2

    @property
    def name(self) -> str:
        """The paper's name."""
        return "Command-V"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One edit for each of the donor's, whatever `site` is; see `Method.fit`.

        Raises:
            PlanError: the donor's plan has no edit, or other acts too, or an edit that goes by more
                than positions.
            DataError: there is nothing to read.
        """
        model = as_model(model)
        check_optional_site(model, site)
        donor = load_model(self.donor) if isinstance(self.donor, str) else as_model(self.donor)
        plan = Plan.load(self.plan, donor) if isinstance(self.plan, str) else self.plan
        if not plan.edits or plan.acts != plan.edits or not all(map(_by_position, plan.edits)):
            raise PlanError(
                f"{self.name}: {plan.name} can't be pasted; the donor's plan must have edits of "
                "activations only, none with a gate, a dial or a schedule that reads activations."
            )
        texts = list(self.prompts) or beginnings(e.text for e in contrast.split("train").examples)
        if not texts:
            raise DataError(f"{self.name}: {contrast.name} has no words to read; give prompts.")
        edits = [self._pasted(donor, model, edit, texts) for edit in plan.edits]
        return Plan(*edits, strength=plan.strength, name=self.name)

    def _pasted(self, donor: Model, model: Model, edit: Edit, texts: Sequence[str]) -> Edit:
        inner = ready(edit.intervention, donor)
        depth = inner.site.layer / max(donor.n_layers - 1, 1)
        place = replace(inner.site, layer=round(depth * (model.n_layers - 1)))
        theirs, ours = (
            pooled_activations(each, texts, [at], "last")[each.check_site(at)]
            for each, at in ((donor, inner.site), (model, place))
        )
        maps = converter(ours, theirs, self.cutoff), converter(theirs, ours, self.cutoff)
        return replace(edit, intervention=Pasted(place, *maps, inner))


def beginnings(texts: Iterable[str]) -> list[str]:
    """Every text up to each of its words, each once: ends that any two tokenizers share."""
    found = (text[: word.end()] for text in texts for word in re.finditer(r"\S+", text))
    return list(dict.fromkeys(found))


def converter(start: Rows, end: Float[Tensor, "n width"], cutoff: float) -> Tensor:
    """The least-squares map `[d_model, width]` with `start @ map ≈ end`, the smallest of them."""
    return (torch.linalg.pinv(start.double(), rtol=cutoff) @ end.double()).float()


def _by_position(edit: Edit) -> bool:
    return isinstance(edit.gate, Always) and not isinstance(edit.schedule, ReadingSchedule | Dial)
