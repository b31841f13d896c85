"""One SAE from several trained runs of it, by the mean of their weights.

Runs that start from one SAE (`init`) and see other text, seeds or objectives end beside each other;
what they disagree about is mostly noise, and their mean is better than they are at no cost in use.
Latents that single runs had on by mistake are off in the mean, so its L0 is below theirs, and the
thresholds can come down by as much. Source: "Model soups" (Wortsman et al., 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.errors import DataError, SaeError
from saesteer.metrics.outliers import usual_rows
from saesteer.saes.checks import check_width
from saesteer.saes.convert import CHUNK
from saesteer.saes.sae import SAE

_NEAREST = 0.7
"""Mean cosine between decoder rows of equal index below which runs had no common start: those of
one start stay above 0.99 over some million tokens, and two seeds are near 0."""
_LOWEST = 0.3
"""Thresholds fall to this share of themselves at most."""
_ALIKE = ("site", "model_name", "activation", "k", "apply_b_dec_to_input", "centred")


@torch.no_grad()
def average_saes(
    saes: Sequence[SAE],
    weights: Sequence[float] | None = None,
    resid: Float[Tensor, "*batch d_model"] | None = None,
) -> SAE:
    """The weighted mean of SAEs that were trained from a common start.

    Each decoder row keeps the mean norm that it had, so activations stay as large as they were.

    Args:
        saes: two or more of one shape, site and kind.
        weights: how much each counts, each above 0; default equally.
        resid: activations at their site, some ten thousand tokens. With them all thresholds are
            scaled by one factor, at which the mean has the runs' mean L0; outlier tokens are left
            out. An SAE without thresholds (ReLU, TopK) takes no notice.

    Returns:
        An SAE on the first one's device and in its dtype; of the metadata what all agree on.

    Raises:
        SaeError: as `check_average` does.
        DataError: `resid` has no token that counts.
        DimensionError: `resid` has another width.
    """
    check_average(saes, weights)
    first, shares = saes[0], _shares(len(saes), weights)
    tensors = {
        name: _mean([getattr(sae, name) for sae in saes], shares)
        for name in ("w_enc", "b_enc", "w_dec", "b_dec", "threshold")
    }
    norms = _mean([sae.w_dec.norm(dim=-1) for sae in saes], shares)
    grown = norms / tensors["w_dec"].norm(dim=-1).clamp(min=1e-12)
    tensors["w_dec"] *= grown[:, None]
    for name in ("w_enc", "b_enc", "threshold"):
        tensors[name] /= grown
    metadata = {
        key: value
        for key, value in first.metadata.items()
        if all(sae.metadata.get(key) == value for sae in saes)
    }
    cast = {name: tensor.to(first.dtype) for name, tensor in tensors.items()}
    mean = replace(first, **cast, metadata=metadata)
    if resid is None or mean.activation == "topk" or not bool((mean.threshold > 0).all()):
        return mean
    return replace(mean, threshold=mean.threshold * _factor(mean, saes, shares, resid))


def check_average(saes: Sequence[SAE], weights: Sequence[float] | None = None) -> None:
    """Refuse what can't be averaged before any text is read.

    Raises:
        SaeError: fewer than two; they differ in shape, site or kind; latents of equal index are
            other features (seeds of their own); a weight is missing or not above 0.
    """
    _shares(len(saes), weights)
    for other in saes[1:]:
        _check_alike(saes[0], other)


def _factor(mean: SAE, saes: Sequence[SAE], shares: Sequence[float], resid: Tensor) -> float:
    """Of its thresholds, at which `mean` has as many latents on as `saes` have on average."""
    check_width(resid, mean.d_model, mean.name)
    rows = usual_rows(resid)
    wanted, ratios = 0.0, []
    for chunk in rows.split(CHUNK):
        for sae, share in zip(saes, shares, strict=True):
            wanted += share * int((sae.encode(chunk.to(sae.w_enc)) > 0).sum())
        ratio = mean.pre(chunk.to(mean.w_enc)) / mean.threshold
        ratios.append(ratio[ratio > _LOWEST].float())
    if not round(wanted):
        raise DataError(f"{len(rows)} tokens on which nothing fires can't set a threshold.")
    found = torch.cat(ratios).sort(descending=True).values
    last = min(round(wanted), len(found)) - 1  # the least that is still on
    below = found[last + 1] if last + 1 < len(found) else found[last] * 0.999
    return float((found[last] + below) / 2)


def _shares(n: int, weights: Sequence[float] | None) -> list[float]:
    if n < 2:
        raise SaeError(f"an average takes two SAEs or more; {n} given.")
    weights = [1.0] * n if weights is None else list(weights)
    if len(weights) != n or not all(0 < weight < float("inf") for weight in weights):
        raise SaeError(f"{n} SAEs take {n} weights above 0; got {weights}.")
    return [weight / sum(weights) for weight in weights]


def _mean(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """In float32, on the first one's device."""
    device = tensors[0].device
    stacked = torch.stack([tensor.to(device, torch.float32) for tensor in tensors])
    return torch.tensordot(torch.tensor(shares, device=device), stacked, dims=1)


def _check_alike(first: SAE, other: SAE) -> None:
    """Make sure that the mean of two SAEs is one."""
    if first.w_enc.shape != other.w_enc.shape:
        shapes = [f"{sae.d_model} x {sae.d_sae}" for sae in (first, other)]
        raise SaeError(f"{first.name} is {shapes[0]} and {other.name} is {shapes[1]}: no average.")
    for name in _ALIKE:
        values = getattr(first, name), getattr(other, name)
        if values[0] != values[1]:
            raise SaeError(
                f"{first.name} and {other.name} differ in {name}: {values[0]} and {values[1]}."
            )
    rows = other.w_dec.to(first.w_dec)
    nearness = float(torch.cosine_similarity(first.w_dec, rows, dim=-1).mean())
    if not nearness >= _NEAREST:
        raise SaeError(
            f"latents of {first.name} and {other.name} that share an index are other features "
            f"(mean cosine of their decoder rows {nearness:.2f}): only runs from one start "
            "(`init`) can be averaged."
        )
