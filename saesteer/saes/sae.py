"""A sparse autoencoder is a frozen value: six tensors and how to read them, with no training in it.

Everything that other libraries keep as run-time options (input scaling, decoder-norm rescaling,
reshaping) is folded into the tensors when an SAE is loaded, so `encode` is one affine map and one
cut. ReLU, JumpReLU and threshold-form BatchTopK are all the same cut, `z = pre where pre > θ`, with
θ >= 0; only a true TopK differs, and it has no exact column slice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saesteer.errors import SaeError
from saesteer.models.sites import Site
from saesteer.saes.checks import Features, check_features, check_shapes, check_width, moved
from saesteer.shown import shown

Activation = Literal["relu", "jumprelu", "topk"]
_TENSORS = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold")


@final
@shown
@dataclass(frozen=True, eq=False)
class FeatureSlice:
    """k features of an SAE: k encoder columns and k decoder rows, all that editing them needs.

    `b_dec` is what the encoder subtracts from its input: zeros where the SAE subtracts nothing.
    Derived are `bias` [k], the encoder's bias with that subtraction folded in; `level`, the one
    threshold of all k where they share it on the host, which saves an operation; `off` is a zero.
    """

    features: tuple[int, ...]
    w_enc: Float[Tensor, "d_model k"]
    b_enc: Float[Tensor, " k"]
    w_dec: Float[Tensor, "k d_model"]
    b_dec: Float[Tensor, " d_model"]
    threshold: Float[Tensor, " k"]
    site: Site
    bias: Float[Tensor, " k"] = field(init=False, repr=False)
    level: float | None = field(init=False, repr=False)
    off: Float[Tensor, ""] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Fold the input offset into `bias`, once.

        Raises:
            DimensionError: another number of columns than of features.
        """
        shape = (*self.b_dec.shape, len(self.features))
        check_shapes(f"slice at {self.site}", {"w_enc": (self.w_enc, shape)})
        object.__setattr__(self, "bias", self.b_enc - self.b_dec @ self.w_enc)
        levels = set(self.threshold.tolist()) if self.threshold.is_cpu else ()
        object.__setattr__(self, "level", next(iter(levels)) if len(levels) == 1 else None)
        object.__setattr__(self, "off", self.threshold.new_zeros(()))  # made once, not in each pass

    @property
    def d_model(self) -> int:
        """Width of the activations that the slice reads and writes."""
        return self.w_enc.shape[0]

    def pre(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch k"]:
        """Pre-activations of the sliced features, in the slice's own dtype.

        Raises:
            DimensionError: the activations have another width.
        """
        self._check(resid, self.w_enc.shape[0], "activations")
        return affine(resid.to(self.w_enc.dtype), self.w_enc, self.bias)

    def read(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch k"]:
        """Activations of the sliced features: the full `encode`, restricted to them."""
        pre = self.pre(resid)
        if self.level is not None:
            return torch.threshold(pre, self.level, 0.0)
        return torch.where(pre > self.threshold, pre, self.off)

    def delta(self, change: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch d_model"]:
        """What a change of the latents, `z_new - z`, adds to the residual: `change @ w_dec`.

        Raises:
            DimensionError: it is of another number of latents.
        """
        self._check(change, self.w_dec.shape[0], "changes")
        return change @ self.w_dec

    def _check(self, given: object, width: int, what: str) -> None:
        """The site is named only where something is wrong: naming it takes its time."""
        if not isinstance(given, Tensor) or not given.ndim or given.shape[-1] != width:
            check_width(given, width, f"slice at {self.site}", what=what)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | str | None = None
    ) -> FeatureSlice:
        """The same slice on another device or in another dtype.

        Raises:
            SaeError: there is no such device, or it is no dtype of floats.
        """
        return replace(self, **moved(self, _TENSORS, device, dtype))


@final
@shown
@dataclass(frozen=True, eq=False)
class SAE:
    """One sparse autoencoder at one site.

    Shapes: w_enc [d_model, d_sae], b_enc [d_sae], w_dec [d_sae, d_model], b_dec [d_model],
    threshold [d_sae]. They come from files, so construction itself checks them.

    `threshold` is zero for ReLU and ignored for TopK, whose `k` says how many latents survive.
    `centred`: it never saw the mean of an activation over d_model, which TransformerLens takes out
    of models with LayerNorm (`center_writing_weights`). Its encoder takes no notice of that mean
    by itself; it rebuilds the rest (`seen`), and no model with LayerNorm can tell the difference.
    `metadata` is whatever the file carried beside the weights (training statistics, data sets).
    """

    w_enc: Tensor
    b_enc: Tensor
    w_dec: Tensor
    b_dec: Tensor
    threshold: Tensor
    site: Site
    activation: Activation = "jumprelu"
    k: int | None = None
    apply_b_dec_to_input: bool = True
    centred: bool = False
    model_name: str = ""
    name: str = "sae"
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Check that the tensors fit together.

        Raises:
            DimensionError: two tensors disagree on d_model or d_sae.
            SaeError: TopK without a usable k.
        """
        d_model, d_sae = self.w_enc.shape
        expected = {
            "b_enc": (self.b_enc, (d_sae,)),
            "w_dec": (self.w_dec, (d_sae, d_model)),
            "b_dec": (self.b_dec, (d_model,)),
            "threshold": (self.threshold, (d_sae,)),
        }
        check_shapes(self.name, expected)
        if self.activation == "topk" and not (self.k and 0 < self.k <= d_sae):
            raise SaeError(
                f"SAE {self.name}: k = {self.k} for a TopK SAE, expected 1 to {d_sae}. "
                "Set k in its cfg.json."
            )

    @property
    def d_model(self) -> int:
        """Width of the activations that the SAE reads."""
        return self.w_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.w_enc.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.w_enc.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that `encode` and `decode` compute in."""
        return self.w_enc.dtype

    def pre(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_sae"]:
        """Pre-activations of all latents, in the SAE's dtype.

        Raises:
            DimensionError: the activations have another width.
        """
        check_width(resid, self.d_model, self.name)
        resid = resid.to(self.dtype)
        centred = resid - self.b_dec if self.apply_b_dec_to_input else resid
        return affine(centred, self.w_enc, self.b_enc)

    def encode(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_sae"]:
        """Latents: non-negative, mostly zero.

        Raises:
            DimensionError: the activations have another width.
        """
        pre = self.pre(resid)
        if self.activation == "topk":
            top = pre.topk(self.k or 0, dim=-1)
            return torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
        return torch.where(pre > self.threshold, pre, 0.0)

    def decode(self, latents: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_model"]:
        """The reconstruction of what is `seen` of the residual, in the SAE's dtype.

        Raises:
            DimensionError: another number of latents.
        """
        check_width(latents, self.d_sae, self.name, what="latents")
        return latents.to(self.dtype) @ self.w_dec + self.b_dec

    def seen(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """What `decode` is compared with: `resid`, less its mean where the SAE is `centred`."""
        return resid - resid.mean(-1, keepdim=True) if self.centred else resid

    def __call__(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Encode and decode, back in the dtype of `resid`; a mean that is not seen stays."""
        rebuilt = self.decode(self.encode(resid))
        if self.centred:
            rebuilt = rebuilt + resid.mean(-1, keepdim=True)
        return rebuilt.to(resid.dtype)

    def check_features(self, features: Features) -> tuple[int, ...]:
        """One feature or several, as a tuple.

        Raises:
            FeatureError: no whole number, or it lies outside 0 to d_sae - 1.
        """
        return check_features(features, self.d_sae, self.name)

    def slice(self, features: Features) -> FeatureSlice:
        """The columns and rows of some features, copied, in the order given.

        Raises:
            FeatureError: a feature lies outside the SAE.
            SaeError: a TopK SAE, where whether one latent lives depends on all the others.
        """
        chosen = self.check_features(features)
        if self.activation == "topk":
            raise SaeError(
                f"SAE {self.name} is a true TopK, which has no exact slice. Convert it with "
                "saesteer.saes.to_threshold."
            )
        index = torch.tensor(chosen, dtype=torch.long, device=self.device)
        offset = self.b_dec if self.apply_b_dec_to_input else torch.zeros_like(self.b_dec)
        return FeatureSlice(
            features=chosen,
            w_enc=self.w_enc[:, index].contiguous(),
            b_enc=self.b_enc[index],
            w_dec=self.w_dec[index],
            b_dec=offset.clone(),
            threshold=self.threshold[index],
            site=self.site,
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | str | None = None
    ) -> SAE:
        """The same SAE on another device or in another dtype.

        Raises:
            SaeError: there is no such device, or it is no dtype of floats.
        """
        return replace(self, **moved(self, _TENSORS, device, dtype))

    def fainter(self, share: float) -> SAE:
        """The same SAE with each latent on from this share of its threshold on.

        What is too faint to rebuild from may still tell. A TopK or ReLU SAE has no thresholds, and
        stays as it is.

        Raises:
            SaeError: the share is none from 0 to 1.
        """
        if not (isinstance(share, int | float) and 0 <= share <= 1):
            raise SaeError(f"share is {share!r}, expected a number from 0 to 1.")
        return replace(self, threshold=share * self.threshold)

    def fingerprint(self) -> str:
        """sha256 over the weights as fp32 and over how they are read; names don't count."""
        digest = hashlib.sha256()
        k = self.k if self.activation == "topk" else None
        digest.update(f"{self.site}|{k}|{self.apply_b_dec_to_input}".encode())
        for tensor in (self.w_enc, self.b_enc, self.w_dec, self.b_dec, self.threshold):
            array = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
            digest.update(array.tobytes())
        return digest.hexdigest()


def affine(
    x: Float[Tensor, "*batch d_in"],
    weight: Float[Tensor, "d_in d_out"],
    bias: Float[Tensor, " d_out"],
) -> Float[Tensor, "*batch d_out"]:
    """`x @ weight + bias` in one product, whatever the batch axes."""
    return functional.linear(x, weight.t(), bias)
