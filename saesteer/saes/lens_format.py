"""The sae-lens file format, read and written without importing sae-lens.

`cfg.json` says how the tensors are meant; `sae_from` folds every option into the tensors, so that
what comes out is one affine map and one cut. What can't be folded exactly is refused by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saesteer.errors import DimensionError, SaeError, SiteError
from saesteer.models.sites import Site
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
    try:
        return _build(cfg, tensors, name)
    except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise SaeError(
            f"SAE {name}: cfg.json and the weights do not make an SAE ({type(error).__name__}: "
            f"{text}). The files are damaged or of another format."
        ) from error


def _build(cfg: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str) -> SAE:
    activation = _activation(cfg, name)
    weights = {key: value.to(torch.float32) for key, value in tensors.items()}
    _check_finite(weights, name)
    _check_shapes(cfg, weights, name)
    if cfg["architecture"] == "gated":
        weights = _fold_gate(weights, name)
    if cfg.get("rescale_acts_by_decoder_norm"):
        weights = _fold_decoder_norm(weights)
    metadata = dict(cfg.get("metadata") or {})
    weights = _fold_input_scale(cfg, metadata, weights, name)
    return SAE(
        w_enc=weights["W_enc"].contiguous(),
        b_enc=_need(weights, "b_enc", name),
        w_dec=weights["W_dec"].contiguous(),
        b_dec=_need(weights, "b_dec", name),
        threshold=_threshold(activation, weights, name),
        site=_site(metadata, name),
        activation=activation,
        k=int(cfg.get("k") or 0) if activation == "topk" else None,
        apply_b_dec_to_input=bool(cfg.get("apply_b_dec_to_input", True)),
        model_name=str(metadata.get("model_name") or ""),
        name=name,
        metadata=metadata,
    )


def cfg_of(sae: SAE, extra_metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The `cfg.json` of an SAE: standard, topk, or jumprelu for every threshold form."""
    heads = sae.site.kind == "head_out" and sae.site.head is None
    metadata = {
        **sae.metadata,
        "sae_lens_version": FORMAT_VERSION,
        "sae_lens_training_version": sae.metadata.get("sae_lens_training_version"),
        "model_name": sae.model_name,
        "hook_name": sae.site.lens_name,
        "hook_head_index": sae.site.head,
        **(extra_metadata or {}),
    }
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


def tensors_of(sae: SAE, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """An SAE's tensors under sae-lens' names, on the CPU; `dtype` is for the two matrices only.

    Biases and thresholds stay fp32: they are small, and rounding a threshold moves L0.
    """
    matrix = dtype or torch.float32
    tensors = {
        "W_enc": sae.w_enc.to("cpu", matrix),
        "b_enc": sae.b_enc.to("cpu", torch.float32),
        "W_dec": sae.w_dec.to("cpu", matrix),
        "b_dec": sae.b_dec.to("cpu", torch.float32),
    }
    if sae.activation == "jumprelu":
        tensors["threshold"] = sae.threshold.to("cpu", torch.float32)
    return {key: value.detach().contiguous() for key, value in tensors.items()}


def _activation(cfg: Mapping[str, Any], name: str) -> Activation:
    """The cut of an architecture, after refusing what can't be read."""
    architecture = cfg.get("architecture")
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


def _need(weights: Mapping[str, Tensor], key: str, name: str) -> Tensor:
    if key not in weights:
        raise SaeError(
            f"SAE {name}: the weights have no {key}, only {', '.join(sorted(weights))}. "
            "The file is damaged or of another architecture than cfg.json says."
        )
    return weights[key]


def _check_finite(weights: Mapping[str, Tensor], name: str) -> None:
    for key, value in weights.items():
        if not bool(value.isfinite().all()):
            bad = int((~value.isfinite()).sum())
            raise SaeError(
                f"SAE {name}: {key} holds {bad} values that are NaN or infinite. "
                "The file is damaged; fetch or train it again."
            )


def _check_shapes(cfg: Mapping[str, Any], weights: Mapping[str, Tensor], name: str) -> None:
    """W_enc and W_dec must be what cfg.json says; the SAE itself checks the rest."""
    w_enc, w_dec = _need(weights, "W_enc", name), _need(weights, "W_dec", name)
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
    gain = _need(weights, "r_mag", name).exp()
    b_gate, b_mag = _need(weights, "b_gate", name), _need(weights, "b_mag", name)
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
    zeros = torch.zeros_like(_need(weights, "b_enc", name))
    if activation != "jumprelu":
        return zeros
    if "topk_threshold" in weights and "threshold" not in weights:
        return zeros + weights["topk_threshold"].clamp(min=0)
    return _need(weights, "threshold", name).clamp(min=0)


def _site(metadata: Mapping[str, Any], name: str) -> Site:
    """The site out of the hook's name, with its head if one is given."""
    hook, out = metadata.get("hook_name"), metadata.get("hook_name_out")
    if not isinstance(hook, str):
        raise SaeError(
            f"SAE {name}: cfg.json names no hook_name in its metadata. "
            "Set metadata.hook_name, for example blocks.9.hook_resid_post."
        )
    if out not in (None, hook):
        raise SaeError(f"SAE {name} reads {hook} and writes {out}: a transcoder, not an SAE.")
    try:
        site = Site.parse(hook)
    except SiteError as error:
        raise SaeError(f"SAE {name}: hook_name {hook!r} is not a site: {error}") from error
    head = metadata.get("hook_head_index")
    if head is None or site.kind != "head_out":
        return site
    return dataclasses.replace(site, head=int(head))
