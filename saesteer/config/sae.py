"""What `saesteer train sae` needs to know; every default says where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from saesteer.errors import ConfigError

Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0), Le(1)]

CLOSED = {"extra": "forbid"}
"""Pydantic's name for refusing unknown keys."""


@dataclass(frozen=True)
class TextConfig:
    """Where the text comes from.

    Attributes:
        path: a file, folder or `datasets` name, or several.
        weights: rows taken from each path per turn; default one each.
        field: key of the text in JSON records; default text, passage, document or content.
        passes: how often each file may be read.
        context: tokens per packed row.
    """

    __pydantic_config__ = CLOSED

    path: str | list[str]
    weights: list[Count] | None = None
    field: str | None = None
    passes: Count = 1
    context: Annotated[int, Ge(2)] = 256

    @property
    def paths(self) -> list[str]:
        """The paths as a list."""
        return [self.path] if isinstance(self.path, str) else self.path


@dataclass(frozen=True)
class WandbConfig:
    """Tracking in wandb; off unless `project` is set. mode "offline" needs no account."""

    __pydantic_config__ = CLOSED

    project: str | None = None
    name: str | None = None
    mode: Literal["online", "offline"] = "offline"


@dataclass(frozen=True)
class TrainSAEConfig:
    """One SAE on one site.

    Attributes:
        model: anything `load_model` takes by name.
        site: such as resid_post.9.
        arch: `batchtopk` (ships as one threshold; Bussmann et al. 2024) or `topk` (Gao et al.
            2024).
        d_sae: number of latents.
        k: mean (batchtopk) or exact (topk) number of active latents per token.
        n_tokens: tokens to train on, outliers not counted.
        batch_size: tokens per step.
        lr: peak of Adam's learning rate; 6e-4 measured best of three at 576 -> 8,192.
        warmup_steps: linear rise at the start.
        decay_share: share of the run, at its end, over which lr falls linearly to 0.
        aux_k: dead latents that model the error each step (Gao et al. 2024, half of d_model).
        aux_coefficient: weight of that loss (Gao et al. 2024: 1/32).
        dead_after_tokens: a latent that has not fired for so long counts as dead.
        threshold_rate: step of the running threshold (sae-lens: 0.01).
        shuffle_batches: batches handed out between two refills of the shuffle ring.
        reuse: how often an activation is trained on, on average, before new ones replace it; a
            cheap way to more steps where the language model is the bottleneck.
        compile: torch.compile the blocks below the site; needs a C++ compiler, pays in long runs.
        grad_clip: largest norm of the whole gradient.
        dtype: of the language model; SAE weights and optimiser are float32 always.
    """

    __pydantic_config__ = CLOSED

    model: str
    site: str
    text: TextConfig
    arch: Literal["batchtopk", "topk"] = "batchtopk"
    d_sae: Count = 8192
    k: Count = 32
    n_tokens: Count = 20_000_000
    batch_size: Count = 2048
    lr: Positive = 6e-4
    warmup_steps: Whole = 300
    decay_share: Share = 0.3
    aux_k: Whole = 288
    aux_coefficient: Annotated[float, Ge(0)] = 1 / 32
    dead_after_tokens: Whole = 1_000_000
    threshold_rate: Share = 0.01
    shuffle_batches: Count = 16
    reuse: Count = 1
    compile: bool = False
    rows_per_pass: Count = 16
    grad_clip: Positive = 1.0
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16"
    seed: Whole = 0
    device: str | None = None
    checkpoint_every_steps: Count = 1000
    keep_checkpoints: Count = 2
    log_every_steps: Count = 50
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        if self.k > self.d_sae:
            raise ConfigError(f"k is {self.k}, but there are only d_sae = {self.d_sae} latents.")

    @property
    def n_steps(self) -> int:
        """Optimiser steps in the whole run."""
        return max(1, self.n_tokens // self.batch_size)

    @property
    def decay_from(self) -> int:
        """Step at which the learning rate begins to fall."""
        return int(self.n_steps * (1 - self.decay_share))
