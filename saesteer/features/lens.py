"""Which tokens a feature promotes and suppresses, read off the weights alone (the logit lens).

The decoder row goes through the final norm's gain and the unembedding, past every layer between; at
early sites it says little. Values are centred over the vocabulary, because softmax ignores a shift
common to all tokens. Source: nostalgebraist 2020, interpreting GPT: the logit lens.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from saesteer.models import Model, as_model
from saesteer.models.offload import weight_of
from saesteer.saes.checks import Features
from saesteer.saes.sae import SAE


@dataclass(frozen=True)
class TokenWeight:
    """A token and the logit it gains per unit of the feature's normalised direction."""

    token: str
    weight: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class FeatureTokens:
    """The tokens that one feature raises most, and those it lowers most."""

    index: int
    promoted: tuple[TokenWeight, ...]
    suppressed: tuple[TokenWeight, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@torch.no_grad()
def promoted_tokens(
    model: Model | nn.Module, sae: SAE, indices: Features, n: int = 8
) -> list[FeatureTokens]:
    """The `n` most promoted and most suppressed tokens of each feature; no forward pass is run.

    Raises:
        FeatureError: an index outside the SAE.
        DimensionError: model and SAE have different widths.
    """
    model = as_model(model)
    features = list(sae.check_features(indices))
    weights = lens_weights(model, sae.w_dec[features])
    sides = [weights.topk(n, dim=-1), weights.topk(n, dim=-1, largest=False)]
    return [
        FeatureTokens(
            feature,
            *(_token_weights(model, side.indices[row], side.values[row]) for side in sides),
        )
        for row, feature in enumerate(features)
    ]


def lens_weights(model: Model, directions: Float[Tensor, "k d_model"]) -> Float[Tensor, "k vocab"]:
    """Centred logit per unit of each direction's unit vector, through the final norm's gain."""
    norm, unembed = model.layout.final_norm, weight_of(model.layout.unembed)
    unit = F.normalize(directions.float(), dim=-1).to(unembed.device)
    if isinstance(norm, nn.LayerNorm):
        unit = unit - unit.mean(-1, keepdim=True)
    weights = (unit * norm_gain(norm, unembed)).to(unembed.dtype) @ unembed.T
    return (weights.float() - weights.float().mean(-1, keepdim=True)).cpu()


def norm_gain(norm: nn.Module, like: Tensor) -> Float[Tensor, " d_model"]:
    """What a norm multiplies each dimension by, whatever it calls its weight (Gemma adds 1 to it).

    A vector of alternating signs has mean 0 and mean square 1, so LayerNorm and RMSNorm both leave
    it as it is but for gain and bias; the difference of the two signs drops the bias.
    """
    width = like.shape[-1]
    signs = torch.ones(width, device=like.device, dtype=like.dtype)
    signs[1::2] = -1
    return ((norm(signs) - norm(-signs)) / 2 * signs).float()


def token_text(model: Model, token_id: int) -> str:
    """One token as it stands in text, with its leading space where it has one."""
    piece = model.tokenizer.convert_ids_to_tokens(int(token_id))
    if isinstance(piece, str) and "\u2581" in piece:
        return piece.replace("\u2581", " ")
    return str(model.tokenizer.decode([int(token_id)]))


def _token_weights(model: Model, ids: Tensor, values: Tensor) -> tuple[TokenWeight, ...]:
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return tuple(TokenWeight(token_text(model, token), value) for token, value in pairs)
