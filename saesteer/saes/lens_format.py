"""The sae-lens file format, read and written without importing sae-lens.

`cfg.json` says how the tensors are meant; `sae_from` folds every option into the tensors, so that
what comes out is one affine map and one cut. What can't be folded exactly is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saesteer.errors import DimensionError, SaeError
from saesteer.saes.checks import building, check_finite, need, site_of
from saesteer.saes.processing import CENTRED, unprocessed
from saesteer.saes.sae import SAE, Activation

CFG_NAME = "cfg.json"
WEIGHTS_NAME = "sae_weights.safetensors"

FORMAT_VERSION = "6.54.12"
"""sae-lens release whose format is written; below 6.0 its reader drops the metadata."""

_ACTIVATIONS: dict[str, Activation] = {
    "standard": "relu",
    "jumprelu": "jumprelu",
    "gated": "jumprelu",
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
    "topk": "topk",
}
_SCALINGS = ("none", None, "expected_average_only_in")
_NORM_FLOOR = 1e-8  # sae-lens' own floor for a decoder norm


def sae_from(cfg: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str) -> SAE:
    """Build an SAE from a config and tensors in sae-lens' format, in fp32.

    Args:
        cfg: parsed `cfg.json` of sae-lens 6 or later.
        tensors: `W_enc` [d_model, d_sae], `b_enc`, `W_dec` [d_sae, d_model], `b_dec` and, by
            architecture, `threshold`, `topk_threshold`, or `b_gate`, `b_mag` and `r_mag`.
        name: used in error messages.

    Raises:
        SaeError: an option or architecture that a threshold form can't hold, or damaged tensors.
        DimensionError: tensors whose shapes do not fit.
    """
    with building(name):
        return _build(cfg, tensors, name)


def _build(cfg: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str) -> SAE:
    activation = _activation(cfg, name)
    weights = {key: value.to(torch.float32) for key, value in tensors.items()}
    check_finite(weights, name)
    _check_matrices(cfg, weights, name)
    if cfg["architecture"] == "gated":
        weights = _fold_gate(weights, name)
    if cfg.get("rescale_acts_by_decoder_norm"):
        weights = _fold_decoder_norm(weights)
    metadata = dict(cfg.get("metadata") or {})
    weights = _fold_input_scale(cfg, metadata, weights, name)
    site = site_of(metadata, name)
    offset = _flag(cfg, "apply_b_dec_to_input", name)
    weights, metadata, centred = unprocessed(weights, metadata, site, name, offset=offset)
    return SAE(
        w_enc=weights["W_enc"].contiguous(),
        b_enc=need(weights, "b_enc", name),
        w_dec=weights["W_dec"].contiguous(),
        b_dec=need(weights, "b_dec", name),
        threshold=_threshold(activation, weights, name),
        site=site,
        activation=activation,
        k=int(cfg.get("k") or 0) if activation == "topk" else None,
        apply_b_dec_to_input=offset,
        centred=centred,
        model_name=str(metadata.get("model_name") or ""),
        name=name,
        metadata=metadata,
    )


def _flag(cfg: Mapping[str, Any], key: str, name: str) -> bool:
    value = cfg.get(key, True)
    if not isinstance(value, bool):
        raise SaeError(f"SAE {name}: {key} is {value!r:.60}, expected true or false.")
    return value


def cfg_of(sae: SAE) -> dict[str, Any]:
    """The `cfg.json` of an SAE: standard, topk, or jumprelu for every threshold form."""
    heads = sae.site.kind == "head_out" and sae.site.head is None
    metadata = {
        **sae.metadata,
        "sae_lens_version": FORMAT_VERSION,
        "sae_lens_training_version": sae.metadata.get("sae_lens_training_version"),
        "model_name": sae.model_name,
        "hook_name": sae.site.lens_name,
        "hook_head_index": sae.site.head,
    }
    if sae.centred:
        metadata[CENTRED] = True
    cfg: dict[str, Any] = {
        "architecture": {"relu": "standard", "jumprelu": "jumprelu", "topk": "topk"}[
            sae.activation
        ],
        "d_in": sae.d_model,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.apply_b_dec_to_input,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if heads else "none",
        "metadata": metadata,
    }
    if sae.activation == "topk":
        cfg |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    return cfg


def tensors_of(sae: SAE) -> dict[str, Tensor]:
    """An SAE's tensors under sae-lens' names."""
    tensors = {"W_enc": sae.w_enc, "b_enc": sae.b_enc, "W_dec": sae.w_dec, "b_dec": sae.b_dec}
    return {**tensors, "threshold": sae.threshold} if sae.activation == "jumprelu" else tensors


def _activation(cfg: Mapping[str, Any], name: str) -> Activation:
    """The cut of an architecture, after refusing what can't be read."""
    architecture = cfg.get("architecture")
    _check_sites(cfg, name)
    if architecture not in _ACTIVATIONS:
        raise SaeError(
            f"SAE {name}: architecture {architecture!r} has no threshold form; "
            f"known are {', '.join(_ACTIVATIONS)}."
        )
    if cfg.get("normalize_activations") not in _SCALINGS:
        raise SaeError(
            f"SAE {name}: normalize_activations {cfg['normalize_activations']!r} depends on each "
            "token, so the weights can't hold it; only none and expected_average_only_in are read."
        )
    if cfg.get("reshape_activations") not in ("none", None, "hook_z"):
        raise SaeError(
            f"SAE {name}: reshape_activations {cfg['reshape_activations']!r} is unknown; "
            "expected none or hook_z."
        )
    return _ACTIVATIONS[architecture]


def _check_sites(cfg: Mapping[str, Any], name: str) -> None:
    """An SAE rebuilds what it reads; its relatives have loaders of their own."""
    architecture, metadata = str(cfg.get("architecture")), cfg.get("metadata") or {}
    hook, out = metadata.get("hook_name"), metadata.get("hook_name_out")
    if architecture.endswith("transcoder") or out not in (None, hook):
        raise SaeError(
            f"SAE {name} reads {hook} and writes {out}: a transcoder, not an SAE. "
            "Load it with saesteer.saes.load_transcoder."
        )
    if architecture.endswith("crosscoder"):
        raise SaeError(
            f"SAE {name} reads and writes several sites: a crosscoder, not an SAE. "
            "Load it with saesteer.saes.load_crosscoder."
        )


def _check_matrices(cfg: Mapping[str, Any], weights: Mapping[str, Tensor], name: str) -> None:
    """W_enc and W_dec must be what cfg.json says; the SAE itself checks the rest."""
    w_enc, w_dec = need(weights, "W_enc", name), need(weights, "W_dec", name)
    expected = (cfg.get("d_in", w_enc.shape[0]), cfg.get("d_sae", w_enc.shape[-1]))
    if tuple(w_enc.shape) != expected or tuple(w_dec.shape) != expected[::-1]:
        raise DimensionError(
            f"SAE {name}: W_enc is {list(w_enc.shape)} and W_dec {list(w_dec.shape)}, expected "
            f"{list(expected)} and {list(expected[::-1])} from d_in and d_sae in cfg.json."
        )
    scale = weights.get("scaling_factor", weights.get("finetuning_scaling_factor"))
    if scale is not None and not bool((scale == 1).all()):
        raise SaeError(
            f"SAE {name}: a fine-tuning scaling_factor other than 1 is no longer part of the "
            "format. Fold it into W_dec and save again."
        )


def _fold_gate(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """A gated encoder as a threshold: x·W + b_gate > 0 is e^r·x·W + b_mag > b_mag - e^r·b_gate."""
    gain = need(weights, "r_mag", name).exp()
    b_gate, b_mag = need(weights, "b_gate", name), need(weights, "b_mag", name)
    folded = {
        "W_enc": weights["W_enc"] * gain,
        "b_enc": b_mag,
        "threshold": b_mag - gain * b_gate,
    }
    return {**weights, **folded}


def _fold_decoder_norm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Latents in units of decoder norms; thresholds are in these units already."""
    norm = weights["W_dec"].norm(dim=-1).clamp(min=_NORM_FLOOR)
    folded = {
        "W_enc": weights["W_enc"] * norm,
        "b_enc": weights["b_enc"] * norm,
        "W_dec": weights["W_dec"] / norm[:, None],
    }
    return {**weights, **folded}


def _fold_input_scale(
    cfg: Mapping[str, Any], metadata: Mapping[str, Any], weights: Mapping[str, Tensor], name: str
) -> dict[str, Tensor]:
    """Inputs were multiplied by one constant in training: put it into the weights."""
    if cfg.get("normalize_activations") != "expected_average_only_in":
        return dict(weights)
    scale = cfg.get("norm_scaling_factor") or metadata.get("norm_scaling_factor")
    if not isinstance(scale, int | float) or not 0 < scale < float("inf"):
        raise SaeError(
            f"SAE {name}: trained on inputs scaled by a constant that its files do not hold. "
            "Set metadata.norm_scaling_factor in its cfg.json to sqrt(d_in) / mean norm."
        )
    folded = {
        "W_enc": weights["W_enc"] * scale,
        "W_dec": weights["W_dec"] / scale,
        "b_dec": weights["b_dec"] / scale,
    }
    return {**weights, **folded}


def _threshold(activation: Activation, weights: Mapping[str, Tensor], name: str) -> Tensor:
    """θ per latent, never negative: with a ReLU below it, a negative one acts as zero."""
    zeros = torch.zeros_like(need(weights, "b_enc", name))
    if activation != "jumprelu":
        return zeros
    if "topk_threshold" in weights and "threshold" not in weights:
        return zeros + weights["topk_threshold"].clamp(min=0)
    return need(weights, "threshold", name).clamp(min=0)
