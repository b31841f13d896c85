"""What adding a vector does to the text a model writes, told by an SAE's features.

The steered model writes, the unsteered one reads: so a feature counts where it is in the text, not
where the added vector itself would set it off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Rows
from saesteer.errors import DataError
from saesteer.metrics.outliers import outlier_tokens
from saesteer.models import Model, TokenBatch, record
from saesteer.saes.sae import SAE
from saesteer.steer import Plan, add, generated
from saesteer.steer.norms import typical_norm

PROMPTS = (
    "I think",
    "Yesterday",
    "The weather",
    "Dear friend,",
    "A recent study",
    "For dinner we",
    "The man said",
    "It is often",
)
"""Openings that leave open what comes."""


@torch.no_grad()
def output_effects(
    model: Model,
    sae: SAE,
    units: Rows,
    dose: float,
    prompts: Sequence[str] = PROMPTS,
    n_tokens: int = 16,
) -> Float[Tensor, "n d_sae"]:
    """Mean latents of texts written under each vector, less those of the plain texts.

    Args:
        units: unit vectors, added at `dose` times the site's typical norm where text is generated.
        n_tokens: written for each prompt, greedily; the prompts' own tokens don't count.

    Raises:
        DataError: no prompts.
    """
    if not prompts:
        raise DataError("output_effects: no prompts; give at least one to write from.")
    norm = dose * typical_norm(model, sae.site)
    plain = _mean_latents(model, sae, prompts, n_tokens, None)
    plans = (Plan(add(sae.site, norm * unit), where=generated()) for unit in units)
    return torch.stack([_mean_latents(model, sae, prompts, n_tokens, p) - plain for p in plans])


def _mean_latents(
    model: Model, sae: SAE, prompts: Sequence[str], n_tokens: int, plan: Plan | None
) -> Float[Tensor, " d_sae"]:
    options: dict[str, Any] = {"max_new_tokens": n_tokens, "min_new_tokens": n_tokens}
    if plan is None:
        written = list(model.generate_ids(list(prompts), **options))
    else:
        with plan.on(model):
            written = list(model.generate_ids(list(prompts), **options))
    total, n_read = torch.zeros(sae.d_sae), 0
    for prompt, new in written:
        ids = torch.cat([prompt.input_ids, new], dim=1)
        valid = torch.cat([prompt.attention_mask, torch.ones_like(new, dtype=torch.bool)], dim=1)
        resid = record(model, TokenBatch(ids, valid), [sae.site])[sae.site]
        kept = valid & ~outlier_tokens(resid, valid)
        kept[:, : prompt.input_ids.shape[1]] = False
        total += sae.encode(resid[kept].to(sae.device)).float().sum(0).cpu()
        n_read += int(kept.sum())
    return total / max(n_read, 1)
