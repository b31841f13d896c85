"""Run a model from a site upwards, with activations put there by hand.

What is below a replaced residual can't reach the logits any more, so the blocks below it are
stepped over while the pass runs. That is exact, and saves a third of the work at a third of the
depth; where it can't be done plainly (blocks that return tuples, sites inside a block) the whole
model runs and only its site is replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saesteer.models.hooks import installed, run_as
from saesteer.models.model import Model, TokenBatch
from saesteer.models.sites import Site


class Replay:
    """Logits of a model whose activations at one site are given; one per model and site.

    Gradients pass through it to those activations, unless the caller asks for none.
    """

    def __init__(self, model: Model, site: Site) -> None:
        self._model = model
        self._site = site
        self._below = _blocks_below(model, site)

    def __call__(self, tokens: TokenBatch, resid: Tensor) -> Tensor:
        """Logits [batch, pos, vocab] with the site's activations set to `resid`.

        Args:
            tokens: the batch; its mask and positions still count above the site.
            resid: [batch, pos, width], in the model's dtype; at every token, padding too.
        """
        hook = (self._model.layout.point(self._site), lambda _: resid)
        with installed([hook]), run_as(self._below, [_hand_on] * len(self._below)):
            return self._model.forward(tokens)


def _blocks_below(model: Model, site: Site) -> Sequence[nn.Module]:
    """Blocks whose output a replaced `site` hides altogether, if they can be stepped over."""
    last = n_hidden(site)
    return model.layout.blocks[:last] if last and _returns_tensors(model) else ()


def n_hidden(site: Site) -> int:
    """Of how many blocks, from the first on, a replaced site hides the output altogether."""
    return {"resid_pre": site.layer, "resid_post": site.layer + 1}.get(site.kind, 0)


@torch.no_grad()
def _returns_tensors(model: Model) -> bool:
    """Whether blocks return their residual and nothing else, seen on two tokens."""
    seen: list[bool] = []
    handle = model.layout.blocks[0].register_forward_hook(
        lambda _module, _args, output: seen.append(isinstance(output, Tensor))
    )
    pair = torch.zeros(1, 2, dtype=torch.long)
    try:
        model.forward(TokenBatch(pair, torch.ones_like(pair, dtype=torch.bool)), base_only=True)
    finally:
        handle.remove()
    return seen == [True]


def _hand_on(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    """What a block that is stepped over does."""
    return hidden_states
