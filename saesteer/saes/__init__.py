"""Sparse autoencoders and their relatives: loading, saving, converting, and column slices."""

from __future__ import annotations

from saesteer.saes.average import average_saes, check_average
from saesteer.saes.convert import ConversionReport, to_threshold
from saesteer.saes.crosscoder import Crosscoder, load_crosscoder
from saesteer.saes.level import LevelRow, check_levels, level_thresholds
from saesteer.saes.load import SaeRef, as_sae, check_width, load_sae, sae_path, shipped_saes
from saesteer.saes.sae import SAE, FeatureSlice
from saesteer.saes.save import AnyCoder, save_sae
from saesteer.saes.transcoder import Transcoder, load_transcoder

__all__ = [
    "SAE",
    "AnyCoder",
    "ConversionReport",
    "Crosscoder",
    "FeatureSlice",
    "LevelRow",
    "SaeRef",
    "Transcoder",
    "as_sae",
    "average_saes",
    "check_average",
    "check_levels",
    "check_width",
    "level_thresholds",
    "load_crosscoder",
    "load_sae",
    "load_transcoder",
    "sae_path",
    "save_sae",
    "shipped_saes",
    "to_threshold",
]
