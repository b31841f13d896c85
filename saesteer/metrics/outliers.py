"""Outlier tokens: where the residual's norm is so large that it drowns every average.

The median is the batch's own and there is no running state, so the answer for one text can depend
on its neighbours; with a factor of 4 it hardly does. Source: Sun et al. 2024, Massive Activations
in Large Language Models.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

OUTLIER_FACTOR = 4.0
"""Multiple of the median norm above which a token counts as an outlier (DESIGN: vocabulary)."""


def norms(resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
    """Euclidean norm of every token's activation, in fp32."""
    return resid.float().norm(dim=-1)


def median_norm(
    resid: Float[Tensor, "*batch d_model"],
    valid: Bool[Tensor, "*batch"] | Int[Tensor, "*batch"] | None = None,
) -> Float[Tensor, ""]:
    """Median of the valid tokens' norms, outliers included; NaN if there is none.

    `valid` may be of 0s and 1s, as tokenizers return it.
    """
    lengths = norms(resid)
    chosen = lengths.flatten() if valid is None else lengths[valid.bool()]
    return chosen.nanmedian() if chosen.numel() else lengths.new_tensor(float("nan"))


def outlier_tokens(
    resid: Float[Tensor, "*batch d_model"],
    valid: Bool[Tensor, "*batch"] | Int[Tensor, "*batch"] | None = None,
    factor: float = OUTLIER_FACTOR,
) -> Bool[Tensor, "*batch"]:
    """True where ‖h‖ > factor × the median norm of the batch's valid tokens.

    Args:
        resid: activations at one site, any leading axes.
        valid: tokens that count (no padding); the others are never outliers. 0s and 1s will do.
        factor: 4 everywhere in this library; another value is for studies.
    """
    outlier = norms(resid) > factor * median_norm(resid, valid)
    return outlier if valid is None else outlier & valid.bool()


def usual_rows(resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "n d_model"]:
    """Activations token by token, outlier tokens left out."""
    rows = resid.reshape(-1, resid.shape[-1])
    return rows[~outlier_tokens(rows)]
