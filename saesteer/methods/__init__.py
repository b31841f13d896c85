"""One file per published method, all through `fit(model, contrast, site=None) -> Plan`."""

from __future__ import annotations

from saesteer.methods.actadd import ActAdd
from saesteer.methods.aura import AurA
from saesteer.methods.base import Family, Method, default_site, difference_in_means
from saesteer.methods.breaking_bad_tokens import BreakingBadTokens
from saesteer.methods.broad_skills import BroadSkills
from saesteer.methods.caa import CAA
from saesteer.methods.cast import CAST
from saesteer.methods.directional_ablation import DirectionalAblation
from saesteer.methods.feature_steering import FeatureSteering
from saesteer.methods.g_act import GACT
from saesteer.methods.iti import ITI
from saesteer.methods.learned import LearnedMethod
from saesteer.methods.lf_steering import LFSteering
from saesteer.methods.linear_act import LinearAcT
from saesteer.methods.linear_probe import LinearProbe
from saesteer.methods.loreft import LoReFT
from saesteer.methods.mass_mean import MassMean
from saesteer.methods.nl_iti import NLITI
from saesteer.methods.output_score import OutputScore
from saesteer.methods.persona_vectors import PersonaVectors
from saesteer.methods.prompting import Prompting
from saesteer.methods.random_direction import RandomDirection
from saesteer.methods.random_feature import RandomFeature
from saesteer.methods.reft_r1 import ReFTr1
from saesteer.methods.repe import RepE

__all__ = [
    "GACT",
    "BroadSkills",
    "PersonaVectors",
    "NLITI",
    "CAA",
    "CAST",
    "ITI",
    "ActAdd",
    "AurA",
    "BreakingBadTokens",
    "DirectionalAblation",
    "Family",
    "FeatureSteering",
    "LFSteering",
    "LearnedMethod",
    "LinearAcT",
    "LinearProbe",
    "LoReFT",
    "MassMean",
    "Method",
    "OutputScore",
    "Prompting",
    "RandomDirection",
    "RandomFeature",
    "ReFTr1",
    "RepE",
    "default_site",
    "difference_in_means",
]
