"""A transcoder: an SAE that reads one site and rebuilds another, usually an MLP's input and output.

Files are sae-lens's: its `transcoder`, `skip_transcoder` and their `jumprelu_` forms are read, and
the `jumprelu_` forms written. Sources: Dunefsky et al. 2024, Transcoders Find Interpretable LLM
Feature Circuits; Paulo et al. 2025, Transcoders Beat Sparse Autoencoders (the skip connection).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Vector
from saesteer.errors import SaeError
from saesteer.models.sites import Site
from saesteer.saes.checks import (
    building,
    check_features,
    check_finite,
    check_shapes,
    check_width,
    moved,
    need,
    site_of,
)
from saesteer.saes.lens_format import FORMAT_VERSION
from saesteer.saes.load import SaeRef, read_files
from saesteer.saes.processing import unprocessed

_ARCHITECTURES = (
    *("transcoder", "skip_transcoder"),
    *("jumprelu_transcoder", "jumprelu_skip_transcoder"),
)


@final
@dataclass(frozen=True, eq=False)
class Transcoder:
    """What a site's activation makes another site's activation be.

    Shapes: w_enc [d_in, d_sae], b_enc [d_sae], w_dec [d_sae, d_out], b_dec [d_out], threshold
    [d_sae], w_skip [d_out, d_in] or None.

    It steers by what it writes, `saesteer.add(t.target, t.direction(i))`. It has no feature slice:
    clamping would have to read at one site and write at another.
    """

    w_enc: Tensor
    b_enc: Tensor
    w_dec: Tensor
    b_dec: Tensor
    threshold: Tensor
    site: Site
    target: Site
    w_skip: Tensor | None = None
    model_name: str = ""
    name: str = "transcoder"
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Check that the tensors fit together.

        Raises:
            DimensionError: two tensors disagree on a size.
        """
        (d_in, d_sae), d_out = self.w_enc.shape, self.w_dec.shape[-1]
        expected = {
            "b_enc": (self.b_enc, (d_sae,)),
            "W_dec": (self.w_dec, (d_sae, d_out)),
            "b_dec": (self.b_dec, (d_out,)),
            "threshold": (self.threshold, (d_sae,)),
        }
        if self.w_skip is not None:
            expected["W_skip"] = (self.w_skip, (d_out, d_in))
        check_shapes(self.name, expected)

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.w_enc.shape[1]

    def pre(self, resid: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Pre-activations of all latents.

        Raises:
            DimensionError: the activations have another width.
        """
        check_width(resid, self.w_enc.shape[0], self.name)
        return resid.to(self.w_enc.dtype) @ self.w_enc + self.b_enc

    def encode(self, resid: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Latents: non-negative, mostly zero."""
        pre = self.pre(resid)
        return torch.where(pre > self.threshold, pre, torch.zeros_like(pre))

    def decode(self, latents: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_out"]:
        """What the latents write at `target`, without the skip connection.

        Raises:
            DimensionError: another number of latents.
        """
        check_width(latents, self.d_sae, self.name, what="latents")
        return latents @ self.w_dec + self.b_dec

    def __call__(self, resid: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The activation at `target` that goes with `resid` at `site`, in the dtype of `resid`."""
        out = self.decode(self.encode(resid))
        if self.w_skip is not None:
            out = out + resid.to(self.w_skip.dtype) @ self.w_skip.t()
        return out.to(resid.dtype)

    def direction(self, feature: int) -> Vector:
        """What one unit of a feature adds at `target`: its decoder row.

        Raises:
            FeatureError: it lies outside the transcoder.
        """
        return self.w_dec[check_features([feature], self.d_sae, self.name)[0]]

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | str | None = None
    ) -> Transcoder:
        """The same transcoder on another device or in another dtype.

        Raises:
            SaeError: there is no such device, or it is no dtype of floats.
        """
        names = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold", "w_skip")
        return replace(self, **moved(self, names, device, dtype))


def load_transcoder(
    ref: SaeRef,
    sae_id: str | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
) -> Transcoder:
    """Load a transcoder; references are those of `load_sae`.

    Raises:
        SaeError: unknown, damaged, or no transcoder.
        DimensionError: tensors that do not fit together.
        NetworkError: the hub could not be reached.
    """
    return transcoder_from(*read_files(ref, sae_id)).to(device=device, dtype=dtype)


def transcoder_from(cfg: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str) -> Transcoder:
    """Build a transcoder from a config and tensors in sae-lens' format, in fp32.

    Raises:
        SaeError: another architecture, inputs scaled token by token, or damaged tensors.
        DimensionError: tensors whose shapes do not fit.
    """
    with building(name):
        return _build(cfg, tensors, name)


def _build(cfg: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str) -> Transcoder:
    architecture, metadata = cfg.get("architecture"), dict(cfg.get("metadata") or {})
    if architecture not in _ARCHITECTURES:
        raise SaeError(
            f"SAE {name}: architecture {architecture!r} is not a transcoder's; "
            f"known are {', '.join(_ARCHITECTURES)}."
        )
    if cfg.get("normalize_activations") not in ("none", None):
        raise SaeError(
            f"SAE {name}: normalize_activations {cfg['normalize_activations']!r} is not read for "
            "transcoders; only none is."
        )
    weights = {key: value.to(torch.float32) for key, value in tensors.items()}
    check_finite(weights, name)
    site = site_of(metadata, name)
    weights, metadata, _ = unprocessed(weights, metadata, site, name, offset=False)
    b_enc = need(weights, "b_enc", name)
    cut = (
        need(weights, "threshold", name) if "jumprelu" in architecture else torch.zeros_like(b_enc)
    )
    return Transcoder(
        w_enc=need(weights, "W_enc", name),
        b_enc=b_enc,
        w_dec=need(weights, "W_dec", name),
        b_dec=need(weights, "b_dec", name),
        threshold=cut.clamp(min=0).expand(len(b_enc)).clone(),
        site=site,
        target=site_of(metadata, name, "_out"),
        w_skip=need(weights, "W_skip", name) if "skip" in architecture else None,
        model_name=str(metadata.get("model_name") or ""),
        name=name,
        metadata=metadata,
    )


def transcoder_cfg(transcoder: Transcoder) -> dict[str, Any]:
    """The `cfg.json` of a transcoder."""
    skip = "" if transcoder.w_skip is None else "skip_"
    site, target = transcoder.site, transcoder.target
    return {
        "architecture": f"jumprelu_{skip}transcoder",
        "d_in": transcoder.w_enc.shape[0],
        "d_out": transcoder.w_dec.shape[1],
        "d_sae": transcoder.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            **transcoder.metadata,
            "sae_lens_version": FORMAT_VERSION,
            "model_name": transcoder.model_name,
            "hook_name": site.lens_name,
            "hook_head_index": site.head,
            "hook_name_out": target.lens_name,
            "hook_head_index_out": target.head,
        },
    }


def transcoder_tensors(transcoder: Transcoder) -> dict[str, Tensor]:
    """A transcoder's tensors under sae-lens' names."""
    tensors = {
        "W_enc": transcoder.w_enc,
        "b_enc": transcoder.b_enc,
        "W_dec": transcoder.w_dec,
        "b_dec": transcoder.b_dec,
        "threshold": transcoder.threshold,
    }
    return tensors if transcoder.w_skip is None else {**tensors, "W_skip": transcoder.w_skip}
