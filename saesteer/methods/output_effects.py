"""What adding a vector does to the text a model writes, told by an SAE's features.

The steered model writes, the unsteered one reads: so a feature counts where it is in the text, not
where the added vector itself would set it off. Several vectors are tried in one batch, each on rows
of its own: decoding costs by the step more than by the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Resid, Rows
from saesteer.errors import DataError
from saesteer.metrics.outliers import outlier_tokens
from saesteer.models import Model, TokenBatch, record
from saesteer.saes.sae import SAE
from saesteer.steer import Intervention, Plan, generated
from saesteer.steer.norms import typical_norm

ROWS = 128
"""Rows written together."""
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
    added = dose * typical_norm(model, sae.site) * units
    size = max(ROWS // len(prompts), 1)
    (plain,) = _mean_latents(model, sae, prompts, n_tokens, torch.zeros(1, sae.d_model))
    parts = [_mean_latents(model, sae, prompts, n_tokens, part) for part in added.split(size)]
    return torch.cat(parts) - plain


def _mean_latents(
    model: Model, sae: SAE, prompts: Sequence[str], n_tokens: int, added: Rows
) -> Float[Tensor, "n d_sae"]:
    """Mean latents of what is written on all the prompts with each of `added`."""
    rows = list(prompts) * len(added)
    ids = _written(model, sae, rows, n_tokens, added.repeat_interleave(len(prompts), dim=0))
    resid = record(model, ids, [sae.site])[sae.site]
    kept = ids.attention_mask & ~outlier_tokens(resid, ids.attention_mask)
    kept[:, :-n_tokens] = False
    found: list[Tensor] = []
    for part in range(len(added)):
        own = slice(part * len(prompts), (part + 1) * len(prompts))
        latents = sae.encode(resid[own][kept[own]].to(sae.device)).float()
        found.append(latents.sum(0).cpu() / max(len(latents), 1))
    return torch.stack(found)


def _written(
    model: Model, sae: SAE, prompts: Sequence[str], n_tokens: int, added: Rows
) -> TokenBatch:
    """Prompts, and what follows them when each row has its own vector added."""
    plan = Plan(_AddEach(sae.site, added), where=generated())
    with plan.on(model):
        ((prompt, new),) = model.generate_ids(
            list(prompts), max_new_tokens=n_tokens, min_new_tokens=n_tokens,
            batch_size=len(prompts),
        )  # fmt: skip
    mask = torch.cat([prompt.attention_mask, torch.ones_like(new, dtype=torch.bool)], dim=1)
    return TokenBatch(torch.cat([prompt.input_ids, new], dim=1), mask)


@final
@dataclass(frozen=True, eq=False)
class _AddEach(Intervention):
    """h + v_i in row i: for one batch whose rows are known, so it never leaves this file."""

    vectors: Rows

    @property
    def width(self) -> int:
        """Size of the vectors."""
        return self.vectors.shape[1]

    def describe(self) -> str:
        """`add 128 vectors`."""
        return f"add {len(self.vectors)} vectors"

    def delta(self, resid: Resid) -> Resid:
        """Each row's vector, at every position."""
        return self.vectors[:, None].expand(resid.shape)
