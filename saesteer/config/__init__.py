"""Frozen dataclasses for every command's settings, and their YAML."""

from saesteer.config.answers import AnswerConfig, AnswerTaskConfig
from saesteer.config.compare import CompareConfig
from saesteer.config.load import build_config, dump_config, load_config, parse_grid, read_yaml
from saesteer.config.method import TrainMethodConfig
from saesteer.config.sae import CacheConfig, ScoreConfig, TrainSAEConfig, WandbConfig
from saesteer.config.text import SupervisedConfig, TextConfig

__all__ = [
    "AnswerConfig",
    "AnswerTaskConfig",
    "CacheConfig",
    "CompareConfig",
    "ScoreConfig",
    "SupervisedConfig",
    "TextConfig",
    "TrainMethodConfig",
    "TrainSAEConfig",
    "WandbConfig",
    "build_config",
    "dump_config",
    "load_config",
    "parse_grid",
    "read_yaml",
]
