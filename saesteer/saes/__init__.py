"""Sparse autoencoders: loading, saving, converting, and column slices."""

from __future__ import annotations

from saesteer.saes.convert import ConversionReport, to_threshold
from saesteer.saes.load import SaeRef, check_width, load_sae, sae_path, shipped_saes
from saesteer.saes.sae import SAE, FeatureSlice
from saesteer.saes.save import save_sae

__all__ = [
    "SAE",
    "ConversionReport",
    "FeatureSlice",
    "SaeRef",
    "check_width",
    "load_sae",
    "sae_path",
    "save_sae",
    "shipped_saes",
    "to_threshold",
]
