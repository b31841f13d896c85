"""One file per published method, all through `fit(model, contrast, site=None) -> Plan`."""

from __future__ import annotations

from saesteer.methods.actadd import ActAdd
from saesteer.methods.aura import AurA
from saesteer.methods.base import Family, Method, default_site, difference_in_means
from saesteer.methods.breaking_bad_tokens import BreakingBadTokens
from saesteer.methods.caa import CAA
from saesteer.methods.cast import CAST
from saesteer.methods.directional_ablation import DirectionalAblation
from saesteer.methods.dynamic_activation_composition import DynamicActivationComposition
from saesteer.methods.fasb import FASB
from saesteer.methods.feature_steering import FeatureSteering
from saesteer.methods.iti import ITI
from saesteer.methods.linear_act import LinearAcT
from saesteer.methods.linear_probe import LinearProbe
from saesteer.methods.mass_mean import MassMean
from saesteer.methods.prompting import Prompting
from saesteer.methods.random_direction import RandomDirection
from saesteer.methods.random_feature import RandomFeature
from saesteer.methods.repe import RepE

__all__ = [
    "CAA",
    "CAST",
    "FASB",
    "ITI",
    "ActAdd",
    "AurA",
    "BreakingBadTokens",
    "DirectionalAblation",
    "DynamicActivationComposition",
    "Family",
    "FeatureSteering",
    "LinearAcT",
    "LinearProbe",
    "MassMean",
    "Method",
    "Prompting",
    "RandomDirection",
    "RandomFeature",
    "RepE",
    "default_site",
    "difference_in_means",
]
