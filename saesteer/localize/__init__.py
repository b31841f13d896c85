"""Reading and localising: methods that rank sites, heads, neurons and features."""

from __future__ import annotations

from saesteer.localize.attribution import AtPStar, AttributionPatching, RelP
from saesteer.localize.neurofeedback import Feedback, Neurofeedback
from saesteer.localize.nodes import FeatureNodes
from saesteer.localize.patching import ActivationPatching
from saesteer.localize.ranking import Localizer, Place, Ranking
from saesteer.localize.tcav import TCAV
from saesteer.localize.voids import Voids

__all__ = [
    "ActivationPatching",
    "AtPStar",
    "AttributionPatching",
    "FeatureNodes",
    "Feedback",
    "Localizer",
    "Neurofeedback",
    "Place",
    "Ranking",
    "RelP",
    "TCAV",
    "Voids",
]
