"""Frozen dataclasses for every command's settings, and their YAML."""

from saesteer.config.compare import CompareConfig
from saesteer.config.load import build_config, dump_config, load_config, parse_grid, read_yaml
from saesteer.config.sae import CacheConfig, ScoreConfig, TextConfig, TrainSAEConfig, WandbConfig

__all__ = [
    "CacheConfig",
    "CompareConfig",
    "ScoreConfig",
    "TextConfig",
    "TrainSAEConfig",
    "WandbConfig",
    "build_config",
    "dump_config",
    "load_config",
    "parse_grid",
    "read_yaml",
]
