"""From a config to a coder and the sites that it reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from saesteer.config import TrainSAEConfig
from saesteer.errors import ConfigError
from saesteer.models import Site
from saesteer.saes import load_sae
from saesteer.training.coder import Coder
from saesteer.training.crosscoder import SparseCrosscoder
from saesteer.training.even import EvenCoder
from saesteer.training.scar import SupervisedCoder
from saesteer.training.select import Kind
from saesteer.training.sparse import SparseCoder, TopKSettings
from saesteer.training.topk import TopKCoder
from saesteer.training.transcoder import SparseTranscoder


def sites_of(config: TrainSAEConfig) -> tuple[Site, ...]:
    """The sites of one SAE, in the order in which its batches hold them.

    Raises:
        ConfigError: a site is named twice.
        SiteError: a name is no site's.
    """
    sites = tuple(Site.parse(name) for name in config.site_names)
    if len(set(sites)) < len(sites):
        raise ConfigError(
            f"sites {', '.join(map(str, sites))}: a transcoder's target and a crosscoder's other "
            "sites must differ from site and from each other."
        )
    return sites


def build_coder(config: TrainSAEConfig, widths: Sequence[int], device: Any) -> Coder:
    """The coder that a config describes, for the widths of its sites."""
    match config.arch:
        case "topk" | "batchtopk" | "abstopk":
            return _told(config, _sparse(config, config.arch, (), widths, device))
        case "matryoshka":
            nested = config.prefix_widths
            return _told(config, _sparse(config, "batchtopk", nested, widths, device))
        case "standard" | "gated" | "jumprelu":
            from saesteer.training.lens import LensCoder

            return LensCoder(
                widths[0],
                config.d_sae,
                config.arch,
                k=config.k,
                sparsity=config.sparsity,
                warmup_steps=int(config.sparsity_warmup_share * config.n_steps),
                seed=config.seed,
                device=device,
            )


def _told(config: TrainSAEConfig, coder: SparseCoder) -> Coder:
    """The coder with the loss, if there is one, that a batch's last column is for."""
    if config.supervised is not None:
        return SupervisedCoder(coder, config.supervised.latent, config.supervised.weight)
    if config.even_l0:
        paths = config.text.paths
        ends = [Path(path).name for path in paths]
        return EvenCoder(coder, config.even_l0, ends if len({*ends}) == len(ends) else paths)
    return coder


def _sparse(
    config: TrainSAEConfig, kind: Kind, nested: tuple[int, ...], widths: Sequence[int], device: Any
) -> SparseCoder:
    settings = TopKSettings(
        k=config.k,
        kind=kind,
        widths=nested,
        aux_k=config.aux_k,
        aux_coefficient=config.aux_coefficient,
        threshold_rate=config.threshold_rate,
        per_token=config.error == "per_token",
        dtype=getattr(torch, config.dtype),
    )
    common: Any = {"settings": settings, "seed": config.seed, "device": device}
    if config.target is not None:
        d_in, d_out = widths
        return SparseTranscoder((d_in, d_out), config.d_sae, skip=config.skip, **common)
    if config.sites is not None:
        named = dict(zip(config.site_names, widths, strict=True))
        return SparseCrosscoder(named, config.d_sae, **common)
    coder = TopKCoder(widths[0], config.d_sae, **common)
    if config.init is not None:
        coder.begin_from(load_sae(config.init))
    return coder
