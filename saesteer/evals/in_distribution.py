"""Is an edit in distribution for its site, or does it work through a dormant pathway?

An activation can be pushed along a direction that natural activations hardly use and still change
the output (the subspace illusion); such an effect says little about what the model does by itself.
For every site that a plan edits, natural tokens and the same tokens after the site's edits are
compared in two ways that a dormant direction gives away:

    norm        ‖h'‖, and the share of natural tokens whose norm is smaller
    neighbour   distance of h' to the nearest natural token of another text, over the same for h:
                near 1 for an edit that lands among natural activations
    spread      natural variance along Δh over the mean variance of a direction, pooled over tokens:
                far below 1 for a dormant direction, above 1 for one that texts vary in

Source: Makelov et al. 2023, Is This the Subspace You Are Looking For? (2311.17030); the three
figures are ours. Texts are teacher-forced, so `generated()` edits need prompts in the examples.
Only tokens that an edit reaches count; outlier tokens are left out of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saesteer.axes import Rows
from saesteer.data.contrast import Example
from saesteer.errors import DataError
from saesteer.evals.entries import plan_sites
from saesteer.features.activations import TextBatch, kept_tokens, text_batches
from saesteer.models import Model, Site, as_model, install
from saesteer.steer import Plan


@dataclass(frozen=True)
class SiteShift:
    """What a plan's edits make of one site's activations; shares and ratios of medians.

    Attributes:
        norm_ratio: median norm after over before; `norm_quantile` is where the former lies among
            natural norms, 0 to 1.
        neighbour_ratio: median distance to the nearest natural token, after over before.
        spread: natural variance along the edit over that along an average direction.
        n_tokens: tokens that the edits reached.
    """

    site: str
    norm_ratio: float
    norm_quantile: float
    neighbour_ratio: float
    spread: float
    n_tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@torch.no_grad()
def in_distribution(
    model: Model | Any, plan: Plan, examples: Sequence[Example | str]
) -> list[SiteShift]:
    """How natural each edited site stays, over some texts, in the plan's order of sites.

    Sites are read in one steered pass, so later ones include what earlier edits did to them.

    Raises:
        DataError: fewer than two texts, or texts whose tokens no edit reaches.
    """
    model = as_model(model)
    if isinstance(examples, str) or len(examples) < 2:
        raise DataError("in_distribution: neighbours come from other texts; give two or more.")
    sites = list(dict.fromkeys(plan_sites(plan)))
    natural: dict[Site, list[Tensor]] = {site: [] for site in sites}
    edited: dict[Site, list[Tensor]] = {site: [] for site in sites}
    owners: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for batch in text_batches(model, examples):
        plain, steered = _read(model, batch, sites), _read(model, batch, sites, plan)
        for site in sites:
            kept = kept_tokens(plain[site], batch)
            natural[site].append(plain[site].float().cpu()[kept])
            edited[site].append(steered[site].float().cpu()[kept])
            text = torch.tensor(batch.rows)[:, None].expand(kept.shape)
            owners[site].append(text[kept])
    joined = ((s, torch.cat(natural[s]), torch.cat(edited[s]), torch.cat(owners[s])) for s in sites)
    return [_shift(*parts) for parts in joined]


def _read(
    model: Model, batch: TextBatch, sites: Sequence[Site], plan: Plan | None = None
) -> dict[Site, Tensor]:
    """Activations after the plan's edits, whose hooks run before those installed here."""
    seen: dict[Site, Tensor] = {}

    def reader(site: Site) -> Any:
        def read(resid: Tensor) -> None:
            seen[site] = resid

        return read

    lengths = [max(int((~own).int().cummin(0).values.sum()), 1) for own in batch.own]
    attached = None if plan is None else plan.attach(model, prompt_lengths=lengths)
    handles = [install(model.layout.point(site), reader(site)) for site in sites]
    try:
        model.forward(batch.tokens, base_only=True)
    finally:
        for handle in handles:
            handle.remove()
        if plan is not None and attached is not None:
            plan.detach(model)
    return seen


def _shift(site: Site, natural: Rows, edited: Rows, text: Int[Tensor, " n"]) -> SiteShift:
    change = edited - natural
    reached = change.norm(dim=-1) > 1e-6 * natural.norm(dim=-1)
    if not bool(reached.any()):
        raise DataError(
            f"in_distribution: no token at {site} is edited; give texts behind prompts if the "
            "plan acts on what is generated, and a strength above 0."
        )
    before, after = natural[reached], edited[reached]
    norms = natural.norm(dim=-1)
    typical = float(after.norm(dim=-1).median())
    distances = [nearest(rows, natural, text[reached], text).median() for rows in (after, before)]
    return SiteShift(
        site=str(site),
        norm_ratio=typical / float(before.norm(dim=-1).median()),
        norm_quantile=float((norms < typical).float().mean()),
        neighbour_ratio=float(distances[0] / distances[1].clamp_min(1e-12)),
        spread=spread_along(natural, change[reached]),
        n_tokens=int(reached.sum()),
    )


def nearest(
    rows: Float[Tensor, "n width"],
    bank: Float[Tensor, "m width"],
    owners: Int[Tensor, " n"],
    bank_owners: Int[Tensor, " m"],
) -> Float[Tensor, " n"]:
    """Distance of each row to the nearest of `bank` that belongs to another text."""
    distances = torch.cdist(rows.double(), bank.double())
    own: Bool[Tensor, "n m"] = owners[:, None] == bank_owners[None]
    return distances.masked_fill(own, torch.inf).amin(-1).float()


def spread_along(natural: Float[Tensor, "m width"], change: Float[Tensor, "n width"]) -> float:
    """Variance of `natural` along the changes, weighed by their squares, over the mean variance."""
    centred = (natural - natural.mean(0)).double()
    change = change.double()
    along = (change @ centred.T).square().sum() / len(natural) / change.square().sum()
    return float(along / centred.square().mean().clamp_min(1e-300))
