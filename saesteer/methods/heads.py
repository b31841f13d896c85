"""Attention heads as candidates: each with a probe's score on validation and a push of its own.

Heads are read at `head_out`, before W_O, where they still lie side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from saesteer.axes import Rows, Vector
from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError
from saesteer.features.activations import Pool
from saesteer.methods.directions import Sides, read_sides
from saesteer.models import Model
from saesteer.models.sites import Site

SHARE = 48 / 1024
"""Heads that are pushed by default, as a share of all: ITI's K for LLaMA-7B."""


class Head(NamedTuple):
    """One head as it ranks: best first in ascending order."""

    misses: float
    log_loss: float
    layer: int
    head: int
    push: Vector


Classify = Callable[[Sides], Callable[[Rows], Tensor]]
"""Fits a probe to one head's rows, and gives what tells other rows' logits, `[n]`."""


def head_sites(model: Model) -> list[Site]:
    """`head_out` of every layer."""
    return [Site(layer, "head_out") for layer in range(model.n_layers)]


def n_chosen(model: Model, who: str, top_k: int | None, share: float = SHARE) -> int:
    """How many heads to choose: `top_k`, or a share of all heads, at least one.

    Raises:
        ConfigError: more than there are, or none.
    """
    n_all = model.n_layers * model.layout.n_heads
    chosen = max(round(share * n_all), 1) if top_k is None else top_k
    if not 1 <= chosen <= n_all:
        raise ConfigError(f"{who}: top_k is {chosen}, but {model.name} has {n_all} heads.")
    return chosen


def ranked_heads(
    model: Model,
    contrast: Contrast,
    classify: Classify,
    push: Callable[[Sides, Sides], Vector],
    pool: Pool = "last",
    n_last: int | None = None,
) -> list[Head]:
    """All heads, those first whose probe errs least on the validation split, then by log loss.

    Args:
        push: what to add to a head, from its rows of the train and the validation split.
        pool: how a text becomes one row, over its `n_last` last tokens.

    Raises:
        SiteError, DataError, ContrastError: as `read_sides` and `Contrast.split`.
    """
    sites, width = head_sites(model), model.layout.d_head
    splits = [contrast.split(name) for name in ("train", "validation")]
    train, held = (read_sides(model, split, sites, pool, n_last) for split in splits)
    heads: list[Head] = []
    for site in sites:
        for head in range(model.layout.n_heads):
            share = (head * width, (head + 1) * width)
            fitted, asked = train[site].columns(*share), held[site].columns(*share)
            errors = _errors(classify(fitted)(asked.rows), asked)
            heads.append(Head(*errors, site.layer, head, push(fitted, asked)))
    return sorted(heads, key=lambda head: head[:4])


def mass_mean_push(train: Sides, held: Sides) -> Vector:
    """σ θ of both splits' rows: θ the unit difference in means, σ the deviation along it."""
    both = Sides(*(torch.cat(rows) for rows in zip(train, held, strict=True)))
    return along(both, both.difference)


def along(sides: Sides, direction: Vector) -> Vector:
    """The unit direction times the standard deviation of the rows along it."""
    unit = functional.normalize(direction, dim=0)
    return unit * float((sides.rows @ unit).std(correction=0))


def side_by_side(model: Model, parts: Iterable[tuple[int, int, Vector]]) -> dict[Site, Vector]:
    """One vector over a layer's heads for each layer that has a part, from (layer, head, part)."""
    width = model.layout.d_head
    vectors: dict[int, Vector] = {}
    for layer, head, part in sorted(parts, key=lambda part: part[:2]):
        whole = vectors.setdefault(layer, torch.zeros(model.layout.n_heads * width))
        whole[head * width : (head + 1) * width] = part
    return {Site(layer, "head_out"): vector for layer, vector in vectors.items()}


def pushes(model: Model, heads: Sequence[Head], alpha: float) -> dict[Site, Vector]:
    """α times the heads' pushes, side by side."""
    return side_by_side(model, ((h.layer, h.head, alpha * h.push) for h in heads))


def _errors(logits: Tensor, held: Sides) -> tuple[float, float]:
    """Share of texts on the wrong side, and log loss."""
    wrong = (logits > 0) != (held.labels > 0.5)
    loss = functional.binary_cross_entropy_with_logits(logits, held.labels)
    return float(wrong.float().mean()), float(loss)
