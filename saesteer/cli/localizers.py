"""What `saesteer localize` offers; nothing here imports torch."""

from __future__ import annotations

from typing import NamedTuple


class Offered(NamedTuple):
    """One method: its class in `saesteer.localize`, and what it ranks by."""

    kind: str
    about: str


LOCALIZERS = {
    "patching": Offered("ActivationPatching", "activation patching"),
    "attribution": Offered("AttributionPatching", "attribution patching"),
    "atp": Offered("AtPStar", "AtP*, gradients with a layer dropped at a time"),
    "relp": Offered("RelP", "relevance propagation in the place of gradients"),
    "nodes": Offered("FeatureNodes", "an SAE's features, ablated with the error kept"),
    "tcav": Offered("TCAV", "concept vectors against shuffled ones"),
    "voids": Offered("Voids", "layers by changes of norm"),
    "neurofeedback": Offered("Neurofeedback", "readouts along a direction"),
}
"""Methods of `saesteer localize` by the name they have there."""
