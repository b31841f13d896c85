"""Plans that have a compiled form, and texts to read under them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saesteer import steer
from saesteer.models import Model
from saesteer.steer import Edit, Plan, where
from saesteer.steer.low_rank import low_rank

SITE, LATER = "resid_post.1", "resid_post.2"
TEXTS, LENGTHS = ["the rain in the town", "a sea"], [4, 1]


def vector(model: Model, seed: int = 0) -> Tensor:
    return torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed))


def plans(model: Model, sae: Any) -> dict[str, Plan]:
    v, unit = vector(model), torch.nn.functional.normalize(vector(model, 1), dim=0)
    return {
        "add": Plan(steer.add(SITE, v)),
        "add_scaled": Plan(steer.add_scaled(SITE, unit), where=where.all()),
        "project_out": Plan(steer.project_out(SITE, unit), where=where.all(special=True)),
        "affine": Plan(steer.affine(SITE, 0.9 * torch.ones_like(v), v), where=where.prompt()),
        "low_rank": Plan(low_rank(SITE, v[None], torch.ones(1), unit[None]), where=where.last()),
        "clamp": Plan(steer.clamp(sae, [3, 5], 4.0), where=where.first(2)),
        "scale": Plan(steer.scale(sae, [3, 5, 7, 9, 11], 3.0), where=where.all()),
        "ablate": Plan(steer.ablate(sae, list(range(60))), where=where.positions([0, 2])),
        "feature_add": Plan(steer.feature_add(sae, [3], 5.0)),
        "feature_shift": Plan(steer.feature_shift(sae, list(range(60)), -0.4), where=where.all()),
        "several": Plan(
            Edit(steer.add(SITE, v), schedule=steer.decay(2)),
            Edit(steer.project_out(SITE, unit), where=where.all(), strength=0.5),
            Edit(steer.clamp(sae, 3, 4.0), schedule=steer.linear(4)),
            strength=0.7,
        ),
    }


NAMES = ("add", "add_scaled", "project_out", "affine", "low_rank", "clamp", "scale", "ablate")
NAMES = (*NAMES, "feature_add", "feature_shift", "several")


@torch.no_grad()
def read(model: Model, forward: Any = None) -> Tensor:
    """Logits of left-padded texts at their real tokens."""
    batch = model.tokenize(TEXTS)
    mask = batch.attention_mask.long()
    at = (mask.cumsum(-1) - 1).clamp(min=0)
    run = model.hf if forward is None else forward
    out = run(input_ids=batch.input_ids, attention_mask=mask, position_ids=at, use_cache=False)
    return out.logits[batch.attention_mask]
