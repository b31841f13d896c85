"""Frozen dataclasses for every command's settings, and their YAML."""

from saesteer.config.answers import AnswerConfig, AnswerTaskConfig
from saesteer.config.compare import CompareConfig
from saesteer.config.load import (
    as_config,
    build_config,
    dump_config,
    load_config,
    parse_grid,
    read_yaml,
)
from saesteer.config.method import TrainMethodConfig
from saesteer.config.run import CacheConfig, ScoreConfig, WandbConfig
from saesteer.config.sae import TrainSAEConfig
from saesteer.config.text import SupervisedConfig, TextConfig
from saesteer.config.tune import BudgetConfig, TuneConfig

__all__ = [
    "AnswerConfig",
    "AnswerTaskConfig",
    "BudgetConfig",
    "CacheConfig",
    "CompareConfig",
    "ScoreConfig",
    "SupervisedConfig",
    "TextConfig",
    "TrainMethodConfig",
    "TrainSAEConfig",
    "TuneConfig",
    "WandbConfig",
    "as_config",
    "build_config",
    "dump_config",
    "load_config",
    "parse_grid",
    "read_yaml",
]
