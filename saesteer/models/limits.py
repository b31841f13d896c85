"""What a model can read and write: whole characters, and so many tokens; and what its activations
must be."""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.errors import ConfigError, DataError, SaesteerError
from saesteer.models.sites import Site

if TYPE_CHECKING:
    from saesteer.models.model import Model


def is_whole(text: str) -> bool:
    """Whether a text is one that can be written down: JSON can hold halves of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def check_length(model: Model, n_tokens: int, what: str, advice: str) -> None:
    """Refuse more tokens than the model can read; `what` says whose they are and how many.

    Raises:
        DataError: there are too many.
    """
    limit = context_length(model)
    if limit is not None and n_tokens > limit:
        raise DataError(f"{what}; {model.name} reads at most {limit}. {advice}")


def check_prompt(model: Model, n_tokens: int) -> None:
    """Refuse a prompt that the model can't read whole.

    Raises:
        DataError: it has too many tokens.
    """
    check_length(model, n_tokens, f"the prompt has {n_tokens} tokens", "Shorten it.")


def check_count(
    name: str, n: int, least: int = 1, error: type[SaesteerError] = ConfigError
) -> None:
    """Refuse a count that means nothing.

    Raises:
        SaesteerError: of the kind `error`: it is no whole number, or below `least`.
    """
    try:
        enough = index(n) >= least
    except TypeError:
        raise error(f"{name} is {n!r}, expected a whole number.") from None
    if not enough:
        raise error(f"{name} is {n}, expected {least} or more.")


def check_generation(model: Model, n_prompt: int, n_new: int) -> None:
    """Refuse to generate nothing, or beyond what the model can read.

    Raises:
        DataError: too few new tokens, or too many with the prompt.
    """
    check_count("max_new_tokens", n_new, error=DataError)
    what = f"a prompt of {n_prompt} tokens with max_new_tokens {n_new} has {n_prompt + n_new}"
    check_length(model, n_prompt + n_new, what, "Shorten the prompt, or generate less.")


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
