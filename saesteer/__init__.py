"""Steer language models by the features of sparse autoencoders, by rule, and show if it worked.

`import saesteer as ss` loads nothing heavy: each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "errors": ("SaesteerError",),
    "models": ("Model", "Site", "load_model", "record"),
    "data": ("Contrast", "Example"),
    "saes": ("SAE", "FeatureSlice", "load_sae", "save_sae"),
    "features": (
        "attribute_token",
        "find_features",
        "promoted_tokens",
        "show_feature",
        "top_features",
    ),
    "steer": (
        "Backtrack",
        "Edit",
        "Plan",
        "PromptEdit",
        "Refuse",
        "Stop",
        "Trace",
        "WeightEdit",
        "ablate",
        "add",
        "add_scaled",
        "affine",
        "chat",
        "clamp",
        "feature_add",
        "feature_shift",
        "first",
        "generated",
        "last",
        "latched",
        "positions",
        "project_out",
        "prompt",
        "replace",
        "scale",
        "spans",
    ),
    "rules": ("RuleBook",),
    "evals": ("compare", "evaluate_sae", "write_report"),
    "training": ("train_sae",),
}
_PACKAGES = (
    "errors",
    "evals",
    "features",
    "methods",
    "metrics",
    "models",
    "rules",
    "saes",
    "steer",
)
_NAMES = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Backtrack",
    "Contrast",
    "Edit",
    "Example",
    "FeatureSlice",
    "Model",
    "Plan",
    "PromptEdit",
    "Refuse",
    "RuleBook",
    "SAE",
    "SaesteerError",
    "Site",
    "Stop",
    "Trace",
    "WeightEdit",
    "__version__",
    "ablate",
    "add",
    "add_scaled",
    "affine",
    "attribute_token",
    "chat",
    "clamp",
    "compare",
    "errors",
    "evals",
    "evaluate_sae",
    "feature_add",
    "feature_shift",
    "features",
    "find_features",
    "first",
    "generated",
    "last",
    "latched",
    "load_model",
    "load_sae",
    "methods",
    "metrics",
    "models",
    "positions",
    "project_out",
    "promoted_tokens",
    "prompt",
    "record",
    "replace",
    "rules",
    "saes",
    "save_sae",
    "scale",
    "show_feature",
    "spans",
    "steer",
    "top_features",
    "train_sae",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"saesteer.{name}")
    if name in _NAMES:
        return getattr(import_module(f"saesteer.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'saesteer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
