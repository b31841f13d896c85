"""Activation patching: put the clean run's activation into the corrupted run and see what returns.

score = (m(patched) − m(corrupted)) / (m(clean) − m(corrupted)), m the logit difference, averaged
over pairs: 0 where the place carries nothing, 1 where it alone carries the whole difference. With
`noising` the corrupted activation goes into the clean run, and the score is the share that is lost:
what is needed, where the other shows what suffices.

Each place is a site at one token position, or with `by="site"` at all positions at once; heads are
patched one by one where the kind is `head_out`. One forward pass per pair and site, its rows the
positions. Source: Vig et al. 2020 and Meng et al. 2022; metric and corruption from Zhang and Nanda
2024 (2309.16042). Pairs whose metric is the same in both runs are refused: there is nothing to
restore.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.data.contrast import Contrast
from saesteer.errors import DataError
from saesteer.localize.pairs import PromptPair, prompt_pairs, run
from saesteer.localize.ranking import Localizer, Place, Ranking
from saesteer.models import Model, Site, as_model, record

SMALLEST = 1e-4
"""A difference of the two runs' metrics, in logits, below which there is nothing to share out."""


@final
@dataclass(frozen=True)
class ActivationPatching(Localizer):
    """What each place restores (or, `noising`, what is lost with it)."""

    source: ClassVar[str] = "Zhang and Nanda 2024, 2309.16042"
    needs: ClassVar[str] = "pairs of prompts with answers"

    kinds: Sequence[str] = ("resid_post",)
    by: Literal["position", "site"] = "position"
    noising: bool = False

    def rank(self, model: Model | Any, contrast: Contrast) -> Ranking:
        """Places by the share of the logit difference; see `Localizer.rank`."""
        model = as_model(model)
        sites = sites_of(model, self.kinds)
        scores: dict[tuple[Site, int | None], list[float]] = defaultdict(list)
        for pair in prompt_pairs(model, contrast):
            for key, score in self._pair(model, pair, sites).items():
                scores[key].append(score)
        word = "lost" if self.noising else "restored"
        places = (Place(s, sum(v) / len(v), position=p) for (s, p), v in scores.items())
        return Ranking.of("activation patching", f"share of the logit difference {word}", places)

    @torch.no_grad()
    def _pair(
        self, model: Model, pair: PromptPair, sites: Sequence[Site]
    ) -> dict[tuple[Site, int | None], float]:
        into, source = pair.corrupted, pair.clean
        if self.noising:
            into, source = source, into
        donors = record(model, source, sites)
        start = float(pair.metric(run(model, into)))
        whole = float(pair.metric(run(model, source))) - start
        if abs(whole) < SMALLEST:
            raise DataError(
                f"activation patching: a pair's logit difference is {start:.4g} in both runs, so "
                "there is nothing to restore; choose prompts that the model tells apart."
            )
        found: dict[tuple[Site, int | None], float] = {}
        for site in sites:
            got = (patched(model, pair, site, donors[site], into, self.by) - start) / whole
            positions = range(-pair.n_tokens, 0) if self.by == "position" else [None]
            found |= {(site, p): float(s) for p, s in zip(positions, got, strict=True)}
        return found


def patched(
    model: Model,
    pair: PromptPair,
    site: Site,
    donor: Tensor,
    into: Any,
    by: Literal["position", "site"],
) -> Float[Tensor, " rows"]:
    """The metric with `donor` `[1, pos, width]` at one position per row, or at all in one row."""
    n_rows = pair.n_tokens if by == "position" else 1

    def patch(resid: Tensor) -> Tensor:
        if by == "site":
            return donor.to(resid)
        resid, rows = resid.clone(), torch.arange(n_rows, device=resid.device)
        resid[rows, rows] = donor[0].to(resid)
        return resid

    return pair.metric(run(model, into, [(site, patch)], n_rows)).cpu()


def sites_of(model: Model, kinds: Sequence[str]) -> list[Site]:
    """Every layer's site of these kinds, `head_out` head by head, in the order of a pass.

    Raises:
        SiteError: the model has no such kind.
    """
    sites: list[Site] = []
    for layer in range(model.n_layers):
        for kind in kinds:
            site = model.check_site(f"{kind}.{layer}")
            heads = range(model.layout.n_heads) if kind == "head_out" else [None]
            sites += [replace(site, head=head) for head in heads]
    return sorted(sites, key=lambda site: (site.order, site.head or 0))
