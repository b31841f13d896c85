"""Gradients by the activations of a model that has none by its parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from saesteer.localize.pairs import Change
from saesteer.models import Model, Site, installed

Gradients = dict[Site, Tensor]


def slopes_at(
    model: Model,
    sites: Sequence[Site],
    value: Callable[[], Tensor],
    changes: Sequence[tuple[Site, Change]] = (),
) -> Gradients:
    """Gradient of a value by the activation at each site, in the shape and dtype found there.

    Zeros are added at every site and their gradients taken, so parameters get none.

    Args:
        value: runs the model once and makes a 0-d tensor of it.
        changes: what else acts in that run, after the zeros.
    """
    leaves: Gradients = {}

    def leaf(site: Site) -> Change:
        def add(resid: Tensor) -> Tensor:
            leaves[site] = torch.zeros_like(resid, requires_grad=True)
            return resid + leaves[site]

        return add

    acts = [*((site, leaf(site)) for site in sites), *changes]
    hooks = ((model.layout.point(site), act) for site, act in acts)
    with installed(hooks), torch.enable_grad():
        found = torch.autograd.grad(
            value(), [leaves[site] for site in sites], allow_unused=True, materialize_grads=True
        )
    return dict(zip(sites, found, strict=True))
