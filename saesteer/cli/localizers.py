"""What `saesteer localize` offers; nothing here imports torch."""

from __future__ import annotations

LOCALIZERS = {
    "patching": "activation patching",
    "attribution": "attribution patching",
    "atp": "AtP*, gradients with a layer dropped at a time",
    "relp": "relevance propagation in the place of gradients",
    "nodes": "an SAE's features, ablated with the error kept",
    "tcav": "concept vectors against shuffled ones",
    "voids": "layers by changes of norm",
    "neurofeedback": "readouts along a direction",
}
"""Methods of `saesteer localize` by the name they have there."""
