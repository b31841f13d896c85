"""Neurons by language: which texts count as which, and what neurons do on them.

Neurons are an MLP's hidden activations, just before the down projection (`neurons`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saesteer.data.contrast import Contrast, Example
from saesteer.errors import ConfigError
from saesteer.features.activations import Pool, pooled_activations
from saesteer.models import Model
from saesteer.models.sites import Site
from saesteer.steer import Intervention, affine

TextsByLanguage = Mapping[str, Sequence[str]]
ByNeuron = Float[Tensor, "layers neurons"]
Chosen = Bool[Tensor, "layers neurons"]


def neuron_sites(model: Model) -> list[Site]:
    """`neurons` of every layer."""
    return [Site(layer, "neurons") for layer in range(model.n_layers)]


def languages_of(
    who: str, contrast: Contrast, texts: TextsByLanguage | None, wanted: str | None
) -> tuple[str, dict[str, Sequence[str | Example]]]:
    """The wanted language and all languages' texts; the contrast's two sides without `texts`.

    Raises:
        ConfigError: fewer than two languages, one without texts, or the wanted one is not there.
    """
    if texts is None:
        train = contrast.split("train")
        known: dict[str, Sequence[str | Example]] = {
            "positives": train.positives,
            "negatives": train.negatives,
        }
    else:
        known = {name: list(given) for name, given in texts.items()}
    wanted = next(iter(known), "") if wanted is None else wanted
    if len(known) < 2 or not all(known.values()) or wanted not in known:
        raise ConfigError(
            f"{who}: wanted language {wanted!r} among {sorted(known)}; give texts of it and of at "
            "least one more, some of each."
        )
    return wanted, known


def read_neurons(model: Model, texts: Sequence[str | Example], pool: Pool) -> list[Tensor]:
    """Each layer's neurons pooled over each text's own tokens, `[texts, neurons]`.

    Raises:
        SiteError: the model's neurons can't be reached.
    """
    return list(pooled_activations(model, texts, neuron_sites(model), pool).values())


def neuron_maps(weight: ByNeuron, bias: ByNeuron) -> list[Intervention]:
    """`a ← weight · a + bias` for the layers where that changes anything."""
    return [
        affine(Site(layer, "neurons"), w, b)
        for layer, (w, b) in enumerate(zip(weight, bias, strict=True))
        if bool(((w != 1) | (b != 0)).any())
    ]


def smallest(scores: ByNeuron, n: int) -> Chosen:
    """The n neurons of the smallest finite scores; the first of equals."""
    flat = scores.flatten()
    order = flat.sort(stable=True).indices[:n]
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[order] = flat[order].isfinite()
    return chosen.view_as(scores)
