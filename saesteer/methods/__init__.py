"""One file per published method, all through `fit(model, contrast, site=None) -> Plan`."""

from __future__ import annotations

from saesteer.methods.actadd import ActAdd
from saesteer.methods.base import Family, Method, default_site, difference_in_means
from saesteer.methods.caa import CAA
from saesteer.methods.feature_steering import FeatureSteering
from saesteer.methods.prompting import Prompting
from saesteer.methods.random_direction import RandomDirection
from saesteer.methods.random_feature import RandomFeature

__all__ = [
    "CAA",
    "ActAdd",
    "Family",
    "FeatureSteering",
    "Method",
    "Prompting",
    "RandomDirection",
    "RandomFeature",
    "default_site",
    "difference_in_means",
]
