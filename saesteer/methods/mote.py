"""MoTE: experts that go with a behaviour are forced on, those that go against it switched off.

An expert's relevance is the share of the positives' tokens that are routed to it less that of the
negatives'. The `n_on` most relevant of all layers get their router logit raised, the `n_off` least
relevant lowered, by `reach` times the largest logit seen in that layer, at every position. The
router decides anew by its own rule: x `[d_model]` becomes x + W⁺ b, W `[experts, d_model]` its
weight, b `[experts]` what its logits gain: W x becomes W x + b, and experts read x unchanged.

Source: Dahlke et al. 2025, Mixture of Tunable Experts (2502.11096). There experts are compared at
one token of paired prompts; here over all tokens of each group's texts, which needs no template.
There a suppressed expert is never chosen and a stimulated one always is; a logit moved further than
any seen comes to the same. Of experts whose share is the same in both groups none is taken. In
bfloat16 the large change of x costs some of its last bits: others' logits shift by 0.4 % of b.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.data.contrast import Contrast, Example
from saesteer.errors import ConfigError, ContrastError
from saesteer.features.activations import TextBatch, text_batches
from saesteer.methods.base import Family, Method, check_optional_site
from saesteer.methods.settings import check_settings
from saesteer.models import Model, Site, as_model, record
from saesteer.models.limits import finite_rows
from saesteer.steer import Plan, add
from saesteer.steer import all as everywhere


class _Use(NamedTuple):
    """How often each expert of a layer was chosen, a share of the tokens, and the largest logit."""

    share: Float[Tensor, " experts"]
    peak: float


@final
@dataclass(frozen=True)
class MoTE(Method):
    """Tuned experts; `n_off` and `n_on` are counts over all layers. Strength multiplies b."""

    source: ClassVar[str] = "Dahlke et al. 2025, 2502.11096"
    needs: ClassVar[str] = "two groups of texts; a Mixture-of-Experts model"
    family: ClassVar[Family] = "dense"
    takes_site: ClassVar[bool] = False

    n_off: int = 2
    n_on: int = 2
    reach: float = 4.0

    def __post_init__(self) -> None:
        """Check the settings; either count may be 0, but not both.

        Raises:
            ConfigError: a negative count or reach, or nothing to do.
        """
        check_settings(self, least=0)
        if not self.n_off + self.n_on or not self.reach > 0:
            told = f"n_off {self.n_off}, n_on {self.n_on} and reach {self.reach}"
            raise ConfigError(f"MoTE: {told}; expected a count and a reach above 0.")

    @property
    def name(self) -> str:
        """The paper's name."""
        return "MoTE"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One edit for each layer with tuned experts, whatever `site` is; see `Method.fit`.

        Raises:
            SiteError: the model has no router.
            ContrastError: all experts are used alike by both groups.
        """
        model = as_model(model)
        check_optional_site(model, site)
        places = [model.check_site(Site(i, "router_in")) for i in range(model.n_layers)]
        train = contrast.split("train")
        wanted, other = (_uses(model, side, places) for side in (train.positives, train.negatives))
        relevance = torch.stack([wanted[p].share - other[p].share for p in places])
        changes = torch.zeros_like(relevance)
        for sign, count in ((1.0, self.n_on), (-1.0, self.n_off)):
            scores, where = (sign * relevance).flatten().topk(min(count, relevance.numel()))
            changes.view(-1)[where[scores > 0]] = sign
        if not changes.any():
            raise ContrastError(f"{contrast.name}: no expert tells its two groups apart.")
        acts = []
        for place, change in zip(places, changes, strict=True):
            if change.any():
                logits = change * self.reach * max(wanted[place].peak, other[place].peak)
                inverse = torch.linalg.pinv(model.layout.router_weight(place).double().cpu())
                acts.append(add(place, (inverse @ logits.double()).float()))
        return Plan(*acts, where=everywhere(special=True), name=self.name)


def _uses(model: Model, examples: tuple[Example, ...], places: list[Site]) -> dict[Site, _Use]:
    """Every layer's use of experts over the texts' own tokens."""
    sums = {place: torch.zeros(len(model.layout.router_weight(place))) for place in places}
    peaks, n_tokens = dict.fromkeys(places, 0.0), 0
    n_chosen = int(model.hf.config.get_text_config().num_experts_per_tok)
    for batch in text_batches(model, examples):
        n_tokens += int(batch.own.sum())
        for place in places:
            weight = model.layout.router_weight(place).float()
            keep = partial(_logits, weight=weight, batch=batch)
            logits = finite_rows(record(model, batch.tokens, [place], keep)[place], model, place)
            chosen = logits.topk(n_chosen, dim=-1).indices.flatten()
            sums[place] += torch.bincount(chosen, minlength=len(weight)).cpu()
            peaks[place] = max(peaks[place], float(logits.abs().max()))
    return {place: _Use(sums[place] / n_tokens, peaks[place]) for place in places}


def _logits(resid: Tensor, weight: Tensor, batch: TextBatch) -> Float[Tensor, "n experts"]:
    return resid.float()[batch.own.to(resid.device)] @ weight.T
