"""One file per published method, all through `fit(model, contrast, site=None) -> Plan`."""

from __future__ import annotations

from saesteer.methods.actadd import ActAdd
from saesteer.methods.aura import AurA
from saesteer.methods.base import Family, Method, default_site, difference_in_means
from saesteer.methods.breaking_bad_tokens import BreakingBadTokens
from saesteer.methods.caa import CAA
from saesteer.methods.casal import CASAL
from saesteer.methods.cast import CAST
from saesteer.methods.controller import Controller
from saesteer.methods.directional_ablation import DirectionalAblation
from saesteer.methods.eigenshift import EigenShift
from saesteer.methods.feature_steering import FeatureSteering
from saesteer.methods.iti import ITI
from saesteer.methods.learned import LearnedMethod
from saesteer.methods.linear_act import LinearAcT
from saesteer.methods.linear_probe import LinearProbe
from saesteer.methods.lineas import LinEAS
from saesteer.methods.loreft import LoReFT
from saesteer.methods.mass_mean import MassMean
from saesteer.methods.mote import MoTE
from saesteer.methods.prompting import Prompting
from saesteer.methods.random_direction import RandomDirection
from saesteer.methods.random_feature import RandomFeature
from saesteer.methods.reft_r1 import ReFTr1
from saesteer.methods.repe import RepE
from saesteer.methods.reps import RePS
from saesteer.methods.rome import ROME

__all__ = [
    "CAA",
    "CASAL",
    "CAST",
    "ITI",
    "ROME",
    "ActAdd",
    "AurA",
    "BreakingBadTokens",
    "Controller",
    "DirectionalAblation",
    "EigenShift",
    "Family",
    "FeatureSteering",
    "LearnedMethod",
    "LinEAS",
    "LinearAcT",
    "LinearProbe",
    "LoReFT",
    "MassMean",
    "Method",
    "MoTE",
    "Prompting",
    "RandomDirection",
    "RandomFeature",
    "RePS",
    "ReFTr1",
    "RepE",
    "default_site",
    "difference_in_means",
]
