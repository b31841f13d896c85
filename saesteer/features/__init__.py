"""The feature space: reading texts as features, and features as what they do."""

from __future__ import annotations

from saesteer.features.activations import pooled_activations, read_activations
from saesteer.features.attribution import Attribution, TokenAttribution, attribute_token
from saesteer.features.effects import LogitEffect, change_effects, logit_effects
from saesteer.features.find import FoundFeature, find_features, max_activations
from saesteer.features.histogram import Histogram
from saesteer.features.lens import FeatureTokens, TokenWeight, promoted_tokens
from saesteer.features.output_score import output_scores
from saesteer.features.show import (
    FeatureCard,
    Neighbour,
    Passage,
    nearest_features,
    show_feature,
    show_features,
)
from saesteer.features.top import Firing, TopFeature, TopFeatures, top_features

__all__ = [
    "Attribution",
    "FeatureCard",
    "FeatureTokens",
    "Firing",
    "FoundFeature",
    "Histogram",
    "LogitEffect",
    "Neighbour",
    "Passage",
    "TokenAttribution",
    "TokenWeight",
    "TopFeature",
    "TopFeatures",
    "attribute_token",
    "change_effects",
    "find_features",
    "logit_effects",
    "max_activations",
    "nearest_features",
    "output_scores",
    "pooled_activations",
    "promoted_tokens",
    "read_activations",
    "show_feature",
    "show_features",
    "top_features",
]
