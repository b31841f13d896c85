"""The dtype in which a device multiplies matrices fastest."""

from __future__ import annotations

import time
from functools import cache

import torch
from torch import Tensor

GAIN = 0.8
"""Share of float32's time that bfloat16 must stay below: with units for it a product takes a half
or less, without them as long, and on many processors fifty times as long."""


def fastest_dtype(device: str | torch.device) -> torch.dtype:
    """bfloat16 where the device has units for it, else float32.

    A CPU is asked by a small product in both, since not every kind says what it has.
    """
    match torch.device(device).type:
        case "cpu":
            has_units = _cpu_gains()
        case "cuda":
            has_units = torch.cuda.is_bf16_supported(including_emulation=False)
        case _:
            has_units = False
    return torch.bfloat16 if has_units else torch.float32


@cache
def _cpu_gains() -> bool:
    """Asked once, so that all who ask get one answer."""
    rows, columns = torch.ones(64, 512), torch.ones(512, 512)
    return _seconds(rows.bfloat16(), columns.bfloat16()) < GAIN * _seconds(rows, columns)


def _seconds(a: Tensor, b: Tensor) -> float:
    """The quickest of some products."""
    times: list[float] = []
    for _ in range(6):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return min(times)
