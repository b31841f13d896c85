"""What TransformerLens had done to a model's weights before an SAE was trained on it.

`metadata.model_from_pretrained_kwargs` in cfg.json says so; models here are never processed. What
changes no activation (`center_unembed`, a dtype) is passed over, `center_writing_weights` is folded
into the encoder, and the rest is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from saesteer.errors import SaeError
from saesteer.models.layout import unwrap
from saesteer.models.model import Model
from saesteer.models.sites import Site

CENTRED = "centred"
"""Metadata of our own files: the encoder takes no notice of the mean any more."""

_OPTIONS, _CENTRING = "model_from_pretrained_kwargs", "center_writing_weights"
_WRITTEN = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""Sites that centring takes the mean over d_model away from; a LayerNorm reads all the same."""
_CHANGED = {
    "fold_ln": ("mlp_in", "router_in"),
    "fold_value_biases": ("head_out",),
    "refactor_factored_attn_matrices": ("head_out",),
}
"""Options that change activations at some sites, by a gain or a basis that only the model knows."""


def unprocessed(
    weights: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    site: Site,
    name: str,
    *,
    offset: bool,
) -> tuple[dict[str, Tensor], dict[str, Any], bool]:
    """Weights that read the model as it is, the metadata that is still true, and whether the SAE
    sees activations less their mean.

    Args:
        weights: by sae-lens's names.
        offset: whether the encoder's input loses `b_dec` first.

    Raises:
        SaeError: an option that the weights can't make up for.
    """
    options = dict(metadata.get(_OPTIONS) or {})
    for option, kinds in _CHANGED.items():
        if options.get(option) and site.kind in kinds:
            raise SaeError(
                f"SAE {name} was trained on a model loaded with {option}, which changes what is "
                f"read at {site}; only SAEs of the model as Hugging Face has it are read there."
            )
    metadata = dict(metadata)
    centred = bool(metadata.pop(CENTRED, False))
    if not (options.pop(_CENTRING, False) and site.kind in _WRITTEN):
        return dict(weights), metadata, centred
    metadata.pop(_OPTIONS)
    return _fold_mean(weights, offset), metadata | ({_OPTIONS: options} if options else {}), True


def _fold_mean(weights: Mapping[str, Tensor], offset: bool) -> dict[str, Tensor]:
    """(x - mean(x))·W is x·W', W' being W less the mean over d_model of each column."""
    w_enc = weights["W_enc"]
    folded = {"W_enc": w_enc - w_enc.mean(0)}
    if offset:  # b_dec keeps its own mean, which W' does not see
        folded["b_enc"] = weights["b_enc"] - weights["b_dec"].mean() * w_enc.sum(0)
    if "W_skip" in weights:
        folded["W_skip"] = weights["W_skip"] - weights["W_skip"].mean(1, keepdim=True)
    return {**weights, **folded}


def check_centring(name: str, model: Model) -> None:
    """Make sure that TransformerLens would have centred this model.

    Raises:
        SaeError: its norms are no LayerNorms, so that their mean was left in and the SAE saw it.
    """
    norm = type(unwrap(model.layout.final_norm)).__name__
    if "RMS" in norm:
        raise SaeError(
            f"SAE {name} names center_writing_weights, which TransformerLens does to models with "
            f"LayerNorm alone, and {model.name} has {norm}. Set it to false in the SAE's cfg.json."
        )
