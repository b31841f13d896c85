"""Which features fire on one text, and on which of its tokens.

Latents are weighed by the length of their decoder rows, so shares compare what each feature adds
to the residual, not latents in units that differ between SAEs. Outlier tokens (massive activations)
are named and left out: hundreds of features fire there and mean nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saesteer.errors import DataError
from saesteer.features.activations import kept_tokens, text_batches
from saesteer.features.lens import token_text
from saesteer.models import Model, as_model, record
from saesteer.models.limits import check_count
from saesteer.saes.load import check_width
from saesteer.saes.sae import SAE
from saesteer.shown import shown


@dataclass(frozen=True)
class Firing:
    """A token on which a feature fires; `position` counts the text's own tokens from 0."""

    position: int
    token: str
    activation: float


@dataclass(frozen=True)
class TopFeature:
    """A feature that fires on a text.

    Attributes:
        share: its part of everything the SAE decodes from this text, 0 to 1.
        max_activation: largest latent on the text; `firings` holds every token, highest first.
    """

    index: int
    share: float
    max_activation: float
    firings: tuple[Firing, ...]


@shown
@dataclass(frozen=True)
class TopFeatures:
    """The features of one text, largest share first, beside the text's tokens."""

    tokens: tuple[str, ...]
    outliers: tuple[int, ...]
    features: tuple[TopFeature, ...]
    n_active: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@torch.no_grad()
def top_features(model: Model | nn.Module, sae: SAE, text: str, *, top: int = 10) -> TopFeatures:
    """The `top` features of `text` by their share of what the SAE decodes from it.

    `n_active` says how many features fire at all. Outlier tokens are listed by position.

    Raises:
        ConfigError: `top` below 1.
        DataError: it is no text, or has no tokens.
        DimensionError: model and SAE have different widths.
    """
    check_count("top", top)
    model = as_model(model)
    check_width(sae, model)
    if not isinstance(text, str):
        raise DataError(f"top_features: {repr(text)[:60]} is no text; give one string.")
    (batch,) = text_batches(model, [text], 1)
    resid = record(model, batch.tokens, [sae.site])[sae.site]
    own, kept = batch.own[0], kept_tokens(resid, batch)[0]
    tokens = [token_text(model, i) for i in batch.tokens.input_ids[0].cpu()[own].tolist()]
    places = (kept[own]).nonzero().flatten().tolist()
    latents = sae.encode(resid[0, kept.to(resid.device)].to(sae.device)).float().cpu()
    weighed = latents.sum(0) * sae.w_dec.float().norm(dim=-1).cpu()
    share = weighed / weighed.sum().clamp(min=1e-12)
    active = int((share > 0).sum())
    order = share.argsort(descending=True, stable=True)[: min(top, active)].tolist()
    return TopFeatures(
        tokens=tuple(tokens),
        outliers=tuple((own & ~kept)[own].nonzero().flatten().tolist()),
        features=tuple(_feature(i, latents[:, i], float(share[i]), places, tokens) for i in order),
        n_active=active,
    )


def _feature(
    index: int, column: Tensor, share: float, places: list[int], tokens: list[str]
) -> TopFeature:
    order = column.argsort(descending=True, stable=True)[: int((column > 0).sum())].tolist()
    firings = tuple(Firing(places[i], tokens[places[i]], float(column[i])) for i in order)
    return TopFeature(index, share, firings[0].activation, firings)
