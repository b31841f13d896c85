"""How fast devices are at training, by measuring this one or from a card's data sheet."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from saesteer.config import TrainSAEConfig
from saesteer.errors import ConfigError
from saesteer.models import fastest_dtype

GPU_MATMUL_SHARE, GPU_BANDWIDTH_SHARE = 0.4, 0.7
"""Of what the data sheets say, the share that such work reaches."""


@dataclass(frozen=True)
class Rates:
    """What a device reaches in such work.

    Attributes:
        matmul: FLOP a second of large matmuls in the model's dtype.
        exact: the same in fp32.
        bandwidth: bytes a second to and from memory.
        memory: bytes of memory.
        device: its type, as torch calls it.
        nominating: FLOP a second of the TopK family's encoder, where it is not in the config's
            dtype.
    """

    name: str
    matmul: float
    exact: float
    bandwidth: float
    memory: float
    device: str = "cuda"
    nominating: float | None = None


# Dense bf16 and fp32 (or TF32) TFLOP/s, TB/s and GB by the makers' data sheets.
_SHEETS = {
    "h200": (989, 495, 4.8, 141),
    "h100": (989, 495, 3.35, 80),
    "a100": (312, 156, 2.0, 80),
    "l40s": (362, 183, 0.864, 48),
    "rtx4090": (165, 83, 1.01, 24),
    "l4": (121, 60, 0.3, 24),
    "t4": (65, 8, 0.32, 16),
}
GPUS = {
    name: Rates(
        name,
        GPU_MATMUL_SHARE * matmul * 1e12,
        GPU_MATMUL_SHARE * exact * 1e12,
        GPU_BANDWIDTH_SHARE * bandwidth * 1e12,
        memory * 1e9,
    )
    for name, (matmul, exact, bandwidth, memory) in _SHEETS.items()
}


def settled(config: TrainSAEConfig, device: str | torch.device) -> TrainSAEConfig:
    """The config with the dtype that is fastest on a device, where it asks for that one."""
    if config.dtype != "fastest":
        return config
    has_units = fastest_dtype(device) == torch.bfloat16
    return replace(config, dtype="bfloat16" if has_units else "float32")


def measure_rates(device: str, dtype: torch.dtype) -> Rates:
    """What this machine reaches, by a second of matmuls and copies."""
    rows, columns, size = 2048, 8192, 576
    x, y = torch.randn(rows, size, device=device), torch.randn(size, columns, device=device)
    half_x, half_y = x.to(dtype), y.to(dtype)
    fast_x, fast_y = (part.to(fastest_dtype(device)) for part in (x, y))
    source = torch.randn(32_000_000, device=device)
    target = torch.empty_like(source)
    flop = 2.0 * rows * columns * size
    return Rates(
        name=f"this machine ({device})",
        matmul=flop / _seconds(lambda: half_x @ half_y, device),
        exact=flop / _seconds(lambda: x @ y, device),
        bandwidth=2 * 4 * len(source) / _seconds(lambda: target.copy_(source), device),
        memory=device_memory(device),
        device=device,
        nominating=flop / _seconds(lambda: fast_x @ fast_y, device) if device == "cpu" else None,
    )


def gpu_rates(name: str) -> Rates:
    """A card's rates by name.

    Raises:
        ConfigError: no such card on the list.
    """
    if name.lower() not in GPUS:
        raise ConfigError(f"{name!r} is not on the list of cards; choose from {', '.join(GPUS)}.")
    return GPUS[name.lower()]


def _seconds(work: Callable[[], Any], device: str) -> float:
    """Median of some rounds, waiting for the device."""
    times = []
    for _ in range(12):
        began = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]


def device_memory(device: str) -> float:
    """Bytes of memory that a device of this machine has."""
    if device.startswith("cuda"):
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
