"""Read activations at several sites in one forward pass that ends after the last site needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from saesteer.models.hooks import installed
from saesteer.models.load import as_model
from saesteer.models.model import Model, Prompt, TokenBatch
from saesteer.models.sites import Site


class _AllSeen(Exception):
    """Ends a forward pass from inside a hook; never leaves this file."""


@torch.no_grad()
def record(
    model: Model | nn.Module,
    batch: TokenBatch | Prompt | Sequence[Prompt],
    sites: Sequence[Site | str] | Site | str,
    keep: Callable[[Tensor], Tensor] | None = None,
) -> dict[Site, Tensor]:
    """Activations at `sites`, each `[batch, pos, width]` in the model's dtype.

    The blocks above the last site are not run. Rows at padding are whatever the model computes
    there: mask them with `batch.attention_mask`.

    Args:
        batch: `model.tokenize(...)`, or what that takes: a text or a chat, or several.
        sites: one of them, or several.
        keep: what stays of an activation, worked out as it arrives, so that reading every layer
            takes the memory of one; all of it if left out.

    Raises:
        SiteError: the model has no such site.
        DataError: no prompt, or one without tokens.
    """
    model = as_model(model)
    batch = batch if isinstance(batch, TokenBatch) else model.tokenize(batch)
    sites = [sites] if isinstance(sites, (str, Site)) else sites
    wanted = [model.check_site(site) for site in sites]
    seen: dict[Site, Tensor] = {}

    def reader(site: Site) -> Callable[[Tensor], None]:
        def read(resid: Tensor) -> None:
            seen[site] = resid if keep is None else keep(resid)
            if len(seen) == len(set(wanted)):
                raise _AllSeen

        return read

    hooks = ((model.layout.point(site), reader(site)) for site in dict.fromkeys(wanted))
    with installed(hooks), suppress(_AllSeen):
        model.forward(batch, base_only=True)
    return seen


@torch.no_grad()
def logits(model: Model, batch: TokenBatch) -> Tensor:
    """Next-token logits `[batch, pos, vocab]`; padded rows get the positions they have alone."""
    return model.forward(batch)
