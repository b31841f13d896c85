"""Tensor types with named axes, checked by jaxtyping and beartype in the tests only.

batch   rows of text           pos     token positions, padding included
d_model width of the residual  d_sae   number of latents      k   features in a slice
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

Resid = Float[Tensor, "batch pos d_model"]
Latents = Float[Tensor, "batch pos d_sae"]
Logits = Float[Tensor, "batch pos vocab"]
TokenIds = Int[Tensor, "batch pos"]
TokenMask = Bool[Tensor, "batch pos"]
TokenFloat = Float[Tensor, "batch pos"]
Rows = Float[Tensor, "n d_model"]
Vector = Float[Tensor, " d_model"]

__all__ = [
    "Latents",
    "Logits",
    "Resid",
    "Rows",
    "TokenFloat",
    "TokenIds",
    "TokenMask",
    "Vector",
]
