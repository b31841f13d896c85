"""A threshold for each latent, so that no kind of text has more latents on than another.

One threshold for all latents (BatchTopK's) keeps the mean L0 and lets some kinds of text have many
more latents than others. Raising the thresholds of latents that are mostly on in such text, and
lowering the others', levels L0 without a step of training and leaves every direction as it is.

Every latent chooses its threshold by itself, from what each of its activations is worth: how much
error it takes away from its token, less a price for each kind of text on which it is on (Lagrange
multipliers). The prices rise until no kind exceeds the L0 asked for; where L0 is cheap, thresholds
fall until it is used up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saesteer.errors import DataError, SaeError
from saesteer.metrics.outliers import usual_rows
from saesteer.saes.checks import check_width
from saesteer.saes.convert import CHUNK, scores_of
from saesteer.saes.sae import SAE

_LOWEST, _HIGHEST, _BINS = 0.3, 2.5, 88
"""New thresholds, as shares of the old ones, and into how many steps they are divided; the last bin
holds all that is greater, and stays on."""
_ROUNDS, _STEP = 300, 0.5
"""Updates of the prices, each by a factor `exp(step x (L0 / asked - 1))`; the step falls to 0."""
_FEW = 20.0
"""So many activations like the average one are added to what is seen of a latent: of one that fired
three times nothing is known."""
_CHEAPEST, _FIRST, _DEAREST = 1e-7, 1e-3, 1.0
"""Prices of a latent on a token, in shares of the token's variance."""


class LevelRow(NamedTuple):
    """Mean L0 and FVU per token on one kind of text, before and after."""

    l0_before: float
    l0_after: float
    fvu_before: float
    fvu_after: float


class _Seen(NamedTuple):
    """What the activations of a sample show of every latent, by share of its threshold.

    Attributes:
        share: tokens of each kind of text on which it is in a bin, as a share of them.
        rate: the same, steadied where little was seen.
        worth: error that an activation there takes away, as a share of its token's variance.
    """

    share: Float[Tensor, "kinds d_sae bins"]
    rate: Float[Tensor, "kinds d_sae bins"]
    worth: Float[Tensor, "d_sae bins"]


@torch.no_grad()
def level_thresholds(
    sae: SAE,
    kinds: Mapping[str, Float[Tensor, "*batch d_model"]],
    l0: float | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[SAE, dict[str, LevelRow]]:
    """Give each latent the threshold at which no kind of text has a mean L0 above `l0`.

    Args:
        sae: one with thresholds (JumpReLU, BatchTopK in its threshold form).
        kinds: activations at its site by kind of text, 50,000 tokens or more of each; outlier
            tokens are left out. Text that counts later must not be among them.
        l0: default the mean of the kinds' L0 as they are.
        progress: called with tokens done and tokens in all.

    Returns:
        The SAE with its new thresholds, and each kind's figures on the same tokens.

    Raises:
        SaeError, DataError: as `check_levels` does.
        DataError: a kind has fewer than two tokens; `l0` is out of reach, being beyond what
            thresholds of 0.3 to 2.5 times the present ones can do.
        DimensionError: the activations have another width.
    """
    check_levels(sae, l0)
    rows = {name: _kept(sae, name, resid) for name, resid in kinds.items()}
    if not rows:
        raise DataError("levelling needs activations of at least one kind of text.")
    before = {name: scores_of(sae, resid) for name, resid in rows.items()}
    wanted = sum(score.l0 for score in before.values()) / len(before) if l0 is None else l0
    shares = _shares(_look(sae, rows, progress), wanted)
    levelled = replace(sae, threshold=sae.threshold * shares.to(sae.threshold))
    after = {name: scores_of(levelled, resid) for name, resid in rows.items()}
    figures = {}
    for name, old in before.items():
        new = after[name]
        figures[name] = LevelRow(old.l0, new.l0, old.fvu_per_token, new.fvu_per_token)
    return levelled, figures


def check_levels(sae: SAE, l0: float | None = None) -> None:
    """Refuse what can't be levelled before any text is read.

    Raises:
        SaeError: the SAE has no thresholds above 0.
        DataError: `l0` is not a number of its latents.
    """
    if sae.activation == "topk" or not bool((sae.threshold > 0).all()):
        kind = "TopK" if sae.activation == "topk" else "ReLU"
        raise SaeError(
            f"{sae.name} has no thresholds to level: it is a {kind} SAE. "
            "A TopK one gets a threshold by saesteer.saes.to_threshold."
        )
    if l0 is not None and not 0 < l0 <= sae.d_sae:
        raise DataError(f"l0 = {l0:.4g} can't be asked for: it is a number of {sae.d_sae} latents.")


def _kept(sae: SAE, name: str, resid: Tensor) -> Tensor:
    check_width(resid, sae.d_model, sae.name)
    kept = usual_rows(resid)
    if len(kept) < 2:
        raise DataError(f"{name}: {len(kept)} tokens can't level an SAE; give some ten thousand.")
    return kept


def _look(
    sae: SAE, rows: Mapping[str, Tensor], progress: Callable[[int, int], None] | None
) -> _Seen:
    """Count activations and add up what they are worth.

    An activation a of a latent with decoder row d, where r is left over, is worth ‖r + a d‖² - ‖r‖²
    if it is on, and ‖r‖² - ‖r - a d‖² if it is below its threshold.
    """
    shape, n_bins = (sae.d_sae, _BINS), sae.d_sae * _BINS
    counts, worth = torch.zeros(len(rows), n_bins), torch.zeros(n_bins, dtype=torch.float64)
    norms, done, total = sae.w_dec.square().sum(-1), 0, sum(map(len, rows.values()))
    for kind, resid in enumerate(map(sae.seen, rows.values())):
        mean = resid.float().mean(0)
        for chunk in resid.split(CHUNK):
            x = chunk.to(sae.dtype)
            pre = sae.pre(x)
            left = x - sae.decode(torch.where(pre > sae.threshold, pre, 0.0))
            row, latent = (pre > _LOWEST * sae.threshold).nonzero(as_tuple=True)
            value, cut = pre[row, latent], sae.threshold[latent]
            along, square = (left @ sae.w_dec.t())[row, latent], value * norms[latent]
            gain = value * (2 * along + torch.where(value > cut, square, -square))
            gain /= (x - mean).square().sum(-1)[row]
            bins = latent * _BINS + _bin(value / cut)
            counts[kind] += torch.bincount(bins, minlength=n_bins).cpu()
            worth += torch.bincount(bins, gain.double(), minlength=n_bins).cpu()
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    n_tokens = torch.tensor([float(len(resid)) for resid in rows.values()])
    return _steadied(counts.view(-1, *shape), worth.view(shape).float(), n_tokens)


def _bin(share: Tensor) -> Int[Tensor, " n"]:
    width = (_HIGHEST - _LOWEST) / _BINS
    return ((share - _LOWEST) / width).long().clamp_(max=_BINS - 1)


def _steadied(counts: Tensor, worth: Tensor, n_tokens: Tensor) -> _Seen:
    """What was seen, drawn to the average where little was: a latent's spread over bins is that of
    all kinds together, and kinds differ in how often it is on."""
    pooled = counts.sum(0)
    usual = worth.sum(0) / pooled.sum(0).clamp(min=1)
    rate = pooled / n_tokens.sum()
    expected = n_tokens[:, None] * rate.sum(-1)
    ratio = (counts.sum(-1) + _FEW) / (expected + _FEW)
    return _Seen(
        share=counts / n_tokens[:, None, None],
        rate=ratio[..., None] * rate,
        worth=(worth + _FEW * usual) / (pooled + _FEW),
    )


def _shares(seen: _Seen, wanted: float) -> Float[Tensor, " d_sae"]:
    """Each latent's new threshold as a share of its old one."""
    edges = torch.linspace(_LOWEST, _HIGHEST, _BINS + 1)[:-1]
    gain, prices = seen.rate.sum(0) * seen.worth, torch.full((len(seen.rate),), _FIRST)
    nothing = torch.zeros(len(gain), 1)
    cut, l0 = nothing, prices
    for step in torch.linspace(_STEP, 0.0, _ROUNDS):
        kept = gain - torch.einsum("k,kfb->fb", prices, seen.rate)
        lost = torch.cat([nothing, kept[:, :-1].cumsum(-1)], -1)
        cut = lost.argmin(-1, keepdim=True)
        on = torch.arange(_BINS) >= cut
        l0 = torch.einsum("kfb,fb->k", seen.share, on.float())
        prices = (prices * torch.exp(step * (l0 / wanted - 1))).clamp(_CHEAPEST, _DEAREST)
    if bool((l0 > 1.02 * wanted).any()):
        raise DataError(
            f"l0 = {wanted:.4g} is out of reach: thresholds of {_LOWEST} to {_HIGHEST} times the "
            f"present ones leave {float(l0.max()):.4g}. Ask for more, or train for it."
        )
    return edges[cut[:, 0]]
