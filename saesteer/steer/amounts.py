"""How much a feature edit sets or adds: numbers, and what one of them is worth.

Latents of two features, or of two SAEs, are in no common scale, so published strengths count in
multiples of a feature's own maximum activation (Templeton et al. 2024; AxBench's factors). `unit`
says what 1 means; `saesteer.features.max_activations` measures it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsFloat

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.errors import PlanError

Values = SupportsFloat | Sequence[SupportsFloat]
Unit = SupportsFloat | Sequence[SupportsFloat] | Tensor
"""Latent units that 1 stands for: for all, one each, or every feature's in a tensor `[d_sae]`."""


def amounts(
    values: Values, unit: Unit, features: Sequence[int], d_sae: int, who: str
) -> Float[Tensor, " k"]:
    """`values` times `unit` for each of the features, in latent units, fp32 on the CPU.

    Raises:
        PlanError: another number of either than of features, or one that is not finite; a unit
            that is not positive, as that of a feature that never fired.
    """
    given = _each(values, len(features), "values", who)
    if isinstance(unit, Tensor):
        if unit.shape != (d_sae,):
            raise PlanError(
                f"{who}: unit has shape {list(unit.shape)}, expected [{d_sae}], every feature's "
                "maximum activation as max_activations gives them."
            )
        units = unit.detach().float().cpu()[list(features)]
    else:
        units = _each(unit, len(features), "units", who)
    for feature, one in zip(features, units.tolist(), strict=True):
        if not 0 < one < float("inf"):
            raise PlanError(
                f"{who}: the unit of feature {feature} is {one:g}, expected its maximum "
                "activation; measure on texts where it fires."
            )
    return given * units


def _each(values: Values, k: int, what: str, who: str) -> Float[Tensor, " k"]:
    if isinstance(values, str):
        raise PlanError(f"{who}: {what} are the text {values!r}; give numbers.")
    single = isinstance(values, int | float) or getattr(values, "ndim", None) == 0
    given: Any = [values] * k if single else values
    if len(given) != k:
        raise PlanError(
            f"{who}: {len(given)} {what} for {k} features; give one for all or one each."
        )
    tensor = torch.tensor([float(v) for v in given], dtype=torch.float32)
    if what == "values" and not bool(torch.isfinite(tensor).all()):
        raise PlanError(f"{who}: the value is not finite.")
    return tensor
