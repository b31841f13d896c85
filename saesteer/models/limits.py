"""How much a model can read at once, and what its activations must be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.errors import ConfigError, DataError
from saesteer.models.sites import Site

if TYPE_CHECKING:
    from saesteer.models.model import Model


def context_length(model: Model) -> int | None:
    """Most tokens that the model's positions allow, or None where it states no limit."""
    return getattr(model.hf.config.get_text_config(), "max_position_embeddings", None)


def check_context(model: Model, context: int) -> None:
    """Make sure that rows of `context` tokens have no more than the model has positions.

    Raises:
        ConfigError: they have.
    """
    limit = context_length(model)
    if limit is not None and context > limit:
        raise ConfigError(
            f"rows of {context} tokens are too long for {model.name}, which has {limit} positions; "
            "lower text.context or --context."
        )


def finite_rows(
    rows: Float[Tensor, "*n width"], model: Model, site: Site | str
) -> Float[Tensor, "*n width"]:
    """`rows` as they are.

    Raises:
        DataError: NaN or infinity among them.
    """
    if not bool(torch.isfinite(rows).all()):
        raise DataError(
            f"{model.name} gives NaN or infinity at {site}; check its weights, or load it in "
            "float32 or bfloat16."
        )
    return rows
