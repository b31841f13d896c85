"""One file per published method, all through `fit(model, contrast, site=None) -> Plan`."""

from __future__ import annotations

from saesteer.methods.actadd import ActAdd
from saesteer.methods.activation_reasoning import ActivationReasoning
from saesteer.methods.aura import AurA
from saesteer.methods.base import Family, Method, default_site, difference_in_means
from saesteer.methods.breaking_bad_tokens import BreakingBadTokens
from saesteer.methods.caa import CAA
from saesteer.methods.cast import CAST
from saesteer.methods.directional_ablation import DirectionalAblation
from saesteer.methods.feature_steering import FeatureSteering
from saesteer.methods.iti import ITI
from saesteer.methods.lf_steering import LFSteering
from saesteer.methods.linear_act import LinearAcT
from saesteer.methods.linear_probe import LinearProbe
from saesteer.methods.mass_mean import MassMean
from saesteer.methods.output_score import OutputScore
from saesteer.methods.prompting import Prompting
from saesteer.methods.random_direction import RandomDirection
from saesteer.methods.random_feature import RandomFeature
from saesteer.methods.repe import RepE
from saesteer.methods.sae_ts import SAETS
from saesteer.methods.scar import SCAR

__all__ = [
    "CAA",
    "CAST",
    "ITI",
    "SAETS",
    "SCAR",
    "ActAdd",
    "ActivationReasoning",
    "AurA",
    "BreakingBadTokens",
    "DirectionalAblation",
    "Family",
    "FeatureSteering",
    "LFSteering",
    "LinearAcT",
    "LinearProbe",
    "MassMean",
    "Method",
    "OutputScore",
    "Prompting",
    "RandomDirection",
    "RandomFeature",
    "RepE",
    "default_site",
    "difference_in_means",
]
