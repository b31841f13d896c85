"""A crosscoder: one set of latents that is read from several sites together and rebuilds them all.

No other library's format holds one, so the files are this package's own: `cfg.json` with
architecture `saesteer_crosscoder` and its sites, tensors by site. Source: Lindsey et al. 2024,
Sparse Crosscoders for Cross-Layer Features and Model Diffing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Vector
from saesteer.errors import SaeError, SiteError
from saesteer.models.sites import Site
from saesteer.saes.checks import (
    building,
    check_features,
    check_finite,
    check_shapes,
    moved,
    need,
    site_of,
)
from saesteer.saes.checks import check_width as check_input
from saesteer.saes.load import SaeRef, read_files

ARCHITECTURE = "saesteer_crosscoder"


@final
@dataclass(frozen=True, eq=False)
class Crosscoder:
    """Latents shared by several sites.

    `latents = pre where pre > threshold`, with `pre = sum over sites of h @ w_enc + b_enc`. Shapes:
    w_enc [d_site, d_sae], w_dec [d_sae, d_site] and b_dec [d_site] of each site; b_enc and
    threshold [d_sae]. `scale` of a site brings its activations to a mean squared norm of their
    width; it is folded into the weights, and kept because norms at two sites compare in it only.

    It steers by what it writes, `saesteer.add(site, c.direction(site, i))`, one edit a site. It has
    no feature slice: a latent is read from all sites together.
    """

    w_enc: Mapping[Site, Tensor]
    b_enc: Tensor
    w_dec: Mapping[Site, Tensor]
    b_dec: Mapping[Site, Tensor]
    threshold: Tensor
    scale: Mapping[Site, float]
    model_name: str = ""
    name: str = "crosscoder"
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Check that the tensors fit together.

        Raises:
            DimensionError: two tensors disagree on a size.
        """
        d_sae = len(self.b_enc)
        check_shapes(self.name, {"threshold": (self.threshold, (d_sae,))})
        for site in self.sites:
            width = self.w_enc[site].shape[0]
            expected = {
                f"W_enc.{site}": (self.w_enc[site], (width, d_sae)),
                f"W_dec.{site}": (self.w_dec[site], (d_sae, width)),
                f"b_dec.{site}": (self.b_dec[site], (width,)),
            }
            check_shapes(self.name, expected)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that it reads and rebuilds."""
        return tuple(self.w_enc)

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return len(self.b_enc)

    def pre(
        self, resids: Mapping[Site, Float[Tensor, "*batch _width"]]
    ) -> Float[Tensor, "*batch d_sae"]:
        """Pre-activations of all latents from activations at every site, as `record` gives them.

        Raises:
            SiteError: a site is missing.
            DimensionError: the activations have another width.
        """
        if missing := [str(site) for site in self.sites if site not in resids]:
            raise SiteError(
                f"crosscoder {self.name} reads all of {', '.join(map(str, self.sites))} together; "
                f"{', '.join(missing)} missing."
            )
        total = self.b_enc
        for site, weight in self.w_enc.items():
            check_input(resids[site], len(weight), f"{self.name} at {site}")
            total = total + resids[site].to(weight.dtype) @ weight
        return total

    def encode(
        self, resids: Mapping[Site, Float[Tensor, "*batch _width"]]
    ) -> Float[Tensor, "*batch d_sae"]:
        """Latents: non-negative, mostly zero."""
        pre = self.pre(resids)
        return torch.where(pre > self.threshold, pre, torch.zeros_like(pre))

    def decode(self, latents: Float[Tensor, "*batch d_sae"]) -> dict[Site, Tensor]:
        """The reconstruction of every site."""
        return {site: latents @ self.w_dec[site] + self.b_dec[site] for site in self.sites}

    def direction(self, site: Site | str, feature: int) -> Vector:
        """What one unit of a feature adds at one site: its decoder row there.

        Raises:
            SiteError, FeatureError: the crosscoder has no such site or feature.
        """
        place = Site.parse(site)
        if place not in self.w_dec:
            names = ", ".join(map(str, self.sites))
            raise SiteError(f"crosscoder {self.name} does not write {place}; it writes {names}.")
        return self.w_dec[place][check_features([feature], self.d_sae, self.name)[0]]

    def shares(self) -> Float[Tensor, "d_sae n_sites"]:
        """Each site's share of a latent's decoder norms, 1 / n_sites where it is shared evenly.

        Norms are taken in units of each site's typical activation, as `scale` has it.
        """
        norms = [weight.norm(dim=-1) * self.scale[site] for site, weight in self.w_dec.items()]
        stacked = torch.stack(norms, dim=-1)
        return stacked / stacked.sum(-1, keepdim=True)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | str | None = None
    ) -> Crosscoder:
        """The same crosscoder on another device or in another dtype.

        Raises:
            SaeError: there is no such device, or it is no dtype of floats.
        """
        names = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold")
        return replace(self, **moved(self, names, device, dtype))


def load_crosscoder(
    folder: SaeRef,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
) -> Crosscoder:
    """Load a crosscoder from its folder.

    Raises:
        SaeError: unknown, damaged, or no crosscoder of this package.
        DimensionError: tensors that do not fit together.
    """
    cfg, tensors, name = read_files(folder)
    if cfg.get("architecture") != ARCHITECTURE:
        raise SaeError(
            f"SAE {name}: architecture {cfg.get('architecture')!r} is not {ARCHITECTURE}."
        )
    with building(name):
        return _build(cfg, tensors, name).to(device=device, dtype=dtype)


def _build(cfg: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str) -> Crosscoder:
    weights = {key: value.to(torch.float32) for key, value in tensors.items()}
    check_finite(weights, name)
    sites = [site_of({"hook_name": site}, name) for site in cfg["sites"]]
    metadata = dict(cfg.get("metadata") or {})
    return Crosscoder(
        w_enc={site: need(weights, f"W_enc.{site}", name) for site in sites},
        b_enc=need(weights, "b_enc", name),
        w_dec={site: need(weights, f"W_dec.{site}", name) for site in sites},
        b_dec={site: need(weights, f"b_dec.{site}", name) for site in sites},
        threshold=need(weights, "threshold", name),
        scale={site: float(s) for site, s in zip(sites, cfg["scales"], strict=True)},
        model_name=str(metadata.get("model_name") or ""),
        name=name,
        metadata=metadata,
    )


def crosscoder_cfg(crosscoder: Crosscoder) -> dict[str, Any]:
    """The `cfg.json` of a crosscoder."""
    return {
        "architecture": ARCHITECTURE,
        "sites": [str(site) for site in crosscoder.sites],
        "scales": [crosscoder.scale[site] for site in crosscoder.sites],
        "d_sae": crosscoder.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "metadata": {**crosscoder.metadata, "model_name": crosscoder.model_name},
    }


def crosscoder_tensors(crosscoder: Crosscoder) -> dict[str, Tensor]:
    """A crosscoder's tensors by name and site."""
    by_site = {"W_enc": crosscoder.w_enc, "W_dec": crosscoder.w_dec, "b_dec": crosscoder.b_dec}
    tensors = {f"{n}.{site}": t for n, each in by_site.items() for site, t in each.items()}
    return {**tensors, "b_enc": crosscoder.b_enc, "threshold": crosscoder.threshold}
