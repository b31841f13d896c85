"""What a run will cost before it is started: FLOP, bytes, memory, disk and hours.

Work is counted from shapes; `rates` says how fast a device does it. `saesteer bench estimate` holds
the formulas against real runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from saesteer.config import TrainSAEConfig
from saesteer.config.sae import SPARSE
from saesteer.errors import ConfigError
from saesteer.models import Model
from saesteer.training.build import sites_of
from saesteer.training.model_cost import model_flop, pass_memory
from saesteer.training.rates import Rates
from saesteer.training.sparse import rows_together
from saesteer.training.streams import check_run, rows_cached

DENSE_FLOP = 18
"""Per weight pair and token: encoder and decoder forward (4), backward (8), and the masks and
straight-through terms of sae-lens's losses, which are dense too."""

OPTIMISER_BYTES = 110
"""Per weight pair and step: Adam reads weight, gradient and two moments and writes three of them
(56); zeroing, the projection, the clipped norm and the decoder's norm read and write gradients and
weights again."""

SELECTION_BYTES = 8
"""Per pre-activation: written by the matmul, read and compared by the selection, in bf16."""

ROW_BYTES = 48
"""Per active latent and element of d_model: rows gathered, multiplied and scattered, in fp32."""

LINK_BYTES = 25e9
"""Bytes a second between GPUs, by PCIe 4; NVLink has ten times as much."""


@dataclass(frozen=True)
class Estimate:
    """The cost of a run on `gpus` devices.

    Attributes:
        flop: of the model and of the SAEs, in all.
        bytes_moved: to and from memory by the SAEs' steps, and between devices, in all.
        memory: bytes on each device; `device_memory` is what each has.
        disk: bytes of checkpoints, of the result, and of the cache if there is one.
        tokens_per_second: drawn for training.
    """

    device: str
    gpus: int
    n_tokens: int
    tokens_read: int
    flop: dict[str, float]
    bytes_moved: dict[str, float]
    memory: dict[str, float]
    device_memory: float
    disk: dict[str, float]
    seconds: dict[str, float]
    hours: float
    tokens_per_second: float

    @property
    def shortage(self) -> str | None:
        """What to tell a user whose run needs more memory than a device has; None if it fits."""
        return shortage(self.memory, self.device_memory)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def table(self) -> list[Mapping[str, str]]:
        """What a reader wants to see, in units of a human size."""
        rows = [
            ("device", f"{self.gpus} x {self.device}"),
            ("tokens", f"{self.n_tokens:,} drawn, {self.tokens_read:,} read by the model"),
            ("FLOP", _parts(self.flop, 1e15, "PFLOP")),
            ("moved", _parts(self.bytes_moved, 1e12, "TB")),
            ("memory", _parts(self.memory, 1e9, "GB")),
            ("there is", f"{self.device_memory / 1e9:,.3g} GB on each device"),
            ("disk", _parts(self.disk, 1e9, "GB")),
            ("time", _parts(self.seconds, 60, "min")),
            ("in all", f"{self.hours:.2f} hours, {self.tokens_per_second:,.0f} tokens a second"),
        ]
        return [{"what": name, "how much": value} for name, value in rows]


def estimate(config: TrainSAEConfig, model: Model, rates: Rates, gpus: int = 1) -> Estimate:
    """What `config` costs on `gpus` devices of these rates, data parallel.

    Args:
        model: its shapes are read, not its weights, so it may lie on the meta device.

    Raises:
        SiteError: the model has no such site.
        ConfigError: fewer than one device, or what the run itself would refuse on so many.
    """
    if gpus < 1:
        raise ConfigError(f"gpus is {gpus}; a run needs 1 or more.")
    check_run(config, model, gpus)
    width, read = _row_width(config, model), _tokens_read(config, gpus)
    shapes = _shapes(config, model)
    steps, rows = config.n_steps, config.batch_size / gpus
    a_token = model_flop(config, model)
    dense = sum(_dense_flop(d, one) for d, one in shapes)
    exact = sum(_exact_flop(d, one) for d, one in shapes)
    step_bytes = sum(_step_bytes(d, one, rows) for d, one in shapes)
    shared = sum(_weight_bytes(d, one) for d, one in shapes) * 2 * (gpus - 1) / gpus
    seconds = {
        "model": read * a_token / rates.matmul / gpus,
        "encoder": config.n_tokens * dense / _matmul_rate(config, rates) / gpus,
        "step": config.n_tokens * exact / rates.exact / gpus + steps * step_bytes / rates.bandwidth,
        "exchange": steps * shared / LINK_BYTES,
    }
    in_all = sum(seconds.values())
    return Estimate(
        device=rates.name,
        gpus=gpus,
        n_tokens=config.n_tokens,
        tokens_read=read,
        flop={"model": read * a_token, "sae": config.n_tokens * (dense + exact)},
        bytes_moved={"memory": steps * step_bytes * gpus, "link": steps * shared},
        memory=memory_of(config, model, gpus, rates.device),
        device_memory=rates.memory,
        disk=_disk(config, shapes, width, read),
        seconds=seconds,
        hours=in_all / 3600,
        tokens_per_second=config.n_tokens / in_all,
    )


def memory_of(config: TrainSAEConfig, model: Model, gpus: int, device: str) -> dict[str, float]:
    """Bytes that a run needs on each device of this type, by what they hold, and in all."""
    size, rows = _size(config), config.batch_size / gpus
    shapes = _shapes(config, model)
    parts = {
        "model": float(size * sum(p.numel() for p in model.hf.parameters())),
        "sae": 4 * sum(_weight_bytes(d, one) for d, one in shapes),  # gradients, two moments
        "pre_activations": max(
            _rows_at_once(rows, one, device) * one.d_sae * (size + 2.0) for _, one in shapes
        ),
        "ring": _ring_rows(config) / gpus * _row_width(config, model) * size,
        **pass_memory(config, model, size),
    }
    return {**parts, "in_all": sum(parts.values())}


def shortage(memory: Mapping[str, float], device_memory: float) -> str | None:
    """What to say where `memory_of` a run is more than a device has; None if it fits."""
    needed = memory["in_all"]
    if needed <= device_memory:
        return None
    return (
        f"the run needs about {needed / 1e9:.3g} GB on each device, which has "
        f"{device_memory / 1e9:.3g} GB; lower batch_size, shuffle_batches or d_sae, train fewer "
        "variants at once, or use more devices."
    )


def _shapes(config: TrainSAEConfig, model: Model) -> list[tuple[int, TrainSAEConfig]]:
    return [(_width(model, one), one) for one in config.each().values()]


def _row_width(config: TrainSAEConfig, model: Model) -> int:
    """Of a token in the ring: all sites that the variants read, side by side."""
    sites = {model.check_site(site) for one in config.each().values() for site in sites_of(one)}
    return sum(model.layout.width(site) for site in sites)


def _width(model: Model, config: TrainSAEConfig) -> int:
    """Mean of what the encoder reads and the decoder writes; a crosscoder does both everywhere."""
    widths = [model.layout.width(site) for site in sites_of(config)]
    return sum(widths) // (2 if config.target is not None else 1)


def _tokens_read(config: TrainSAEConfig, gpus: int) -> int:
    """By the model: once for all passes over a cache, and each time for a run end to end."""
    if config.kl:
        return config.n_tokens
    cached = config.cache.path is not None
    return rows_cached(config, gpus) if cached else config.n_tokens // config.reuse


def _ring_rows(config: TrainSAEConfig) -> int:
    """In the rings of all processes; a run end to end has none."""
    return 0 if config.kl else 2 * config.shuffle_batches * config.batch_size


def _dense_flop(d_model: int, config: TrainSAEConfig) -> float:
    return (2.0 if config.arch in SPARSE else float(DENSE_FLOP)) * d_model * config.d_sae


def _exact_flop(d_model: int, config: TrainSAEConfig) -> float:
    return 8.0 * d_model * config.k if config.arch in SPARSE else 0.0


def _matmul_rate(config: TrainSAEConfig, rates: Rates) -> float:
    if config.arch in SPARSE and rates.nominating is not None:
        return rates.nominating
    return rates.exact if config.dtype == "float32" else rates.matmul


def _step_bytes(d_model: int, config: TrainSAEConfig, rows: float) -> float:
    optimiser = float(OPTIMISER_BYTES) * d_model * config.d_sae
    if config.arch not in SPARSE:
        return optimiser + rows * config.d_sae * 4 * SELECTION_BYTES
    return optimiser + rows * (SELECTION_BYTES * config.d_sae + ROW_BYTES * config.k * d_model)


def _disk(
    config: TrainSAEConfig,
    shapes: list[tuple[int, TrainSAEConfig]],
    width: int,
    read: int,
) -> dict[str, float]:
    size = _size(config)
    ring = float(_ring_rows(config) * width * size)
    weights = sum(_weight_bytes(d, each) for d, each in shapes)
    parts = {
        "checkpoints": (3 * weights + ring) * (config.keep_checkpoints + 1),  # two moments too
        "result": weights,
        "cache": 0.0 if config.cache.path is None else float(read * width * size),
    }
    return {**parts, "in_all": sum(parts.values())}


def _weight_bytes(d_model: int, config: TrainSAEConfig) -> float:
    """Both matrices, in fp32."""
    return 4.0 * 2 * d_model * config.d_sae


def _rows_at_once(rows: float, config: TrainSAEConfig, device: str) -> float:
    """Whose pre-activations are in memory together: a block of them where a CPU chooses."""
    return float(rows_together(math.ceil(rows), device)) if config.arch in SPARSE else rows


def _size(config: TrainSAEConfig) -> int:
    """Bytes of a number in the model's dtype."""
    return 4 if config.dtype == "float32" else 2


def _parts(values: dict[str, float], unit: float, name: str) -> str:
    shown = ((part.replace("_", " "), value / unit) for part, value in values.items() if value)
    return ", ".join(f"{part} {value:,.3g} {name}" for part, value in shown)
