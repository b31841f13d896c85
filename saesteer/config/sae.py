"""What `saesteer train sae` needs to know; every default says where it comes from."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen

from saesteer.config.run import CacheConfig, ScoreConfig, WandbConfig
from saesteer.config.text import (
    CLOSED,
    Count,
    Positive,
    Seed,
    Share,
    SupervisedConfig,
    TextConfig,
    Whole,
)
from saesteer.errors import ConfigError

Arch = Literal["batchtopk", "topk", "matryoshka", "abstopk", "standard", "gated", "jumprelu"]

_THRESHOLD_FORMS = ("batchtopk", "matryoshka")
SPARSE = (*_THRESHOLD_FORMS, "topk", "abstopk")
"""Architectures that the sparse step trains, the TopK family."""

_MOST_PATHS = 256
"""Paths that rows can be told apart by: their numbers are in the dtype of activations, and bfloat16
has every whole number up to there."""

VARIED = frozenset(
    {
        *("site", "arch", "d_sae", "k", "widths", "lr", "warmup_steps", "decay_share", "seed"),
        *("sparsity", "sparsity_warmup_share", "aux_k", "aux_coefficient", "dead_after_tokens"),
        *("threshold_rate", "error", "grad_clip", "init", "target", "skip", "sites"),
    }
)
"""Settings of one SAE, which `variants` may change; the others belong to the stream."""

_FOLDER = re.compile(r"(?!(?:checkpoints|wandb)$)[A-Za-z0-9][A-Za-z0-9._=-]*")


@dataclass(frozen=True)
class TrainSAEConfig:
    """One SAE on one site, or several over one stream.

    Attributes:
        model: anything `load_model` takes by name.
        site: such as resid_post.9.
        target: the site to rebuild from `site`, which makes it a transcoder: mlp_out.9 from
            mlp_in.9 (Dunefsky et al. 2024).
        skip: give the transcoder a linear skip connection (Paulo et al. 2025).
        sites: further sites that the same latents read and write, which makes it a crosscoder
            (Lindsey et al. 2024).
        supervised: a latent that learns from labels; for TopK-family architectures.
        arch: `batchtopk` (ships as one threshold; Bussmann et al. 2024), `topk` (Gao et al.
            2024), `matryoshka` (BatchTopK with nested prefixes; Bussmann et al. 2025), `abstopk`
            (signed; Zhu et al. 2025), or, by sae-lens's classes, `standard` (ReLU + L1), `gated`,
            `jumprelu`.
        d_sae: number of latents.
        k: mean (batchtopk, matryoshka), exact (topk, abstopk) or aimed at (jumprelu) number of
            active latents per token; not used by standard and gated.
        widths: matryoshka's nested prefixes; default d_sae / 16, / 4 and d_sae.
        sparsity: weight of the sparsity loss of standard, gated (L1) and jumprelu (squared
            distance from k).
        sparsity_warmup_share: share of the run over which it rises.
        n_tokens: tokens to train on, outliers not counted.
        batch_size: tokens per step; 2 or more a process for the TopK family.
        lr: peak of Adam's learning rate; 6e-4 measured best of three at 576 -> 8,192.
        warmup_steps: linear rise at the start.
        decay_share: share of the run, at its end, over which lr falls linearly to 0.
        aux_k: dead latents that model the error each step (Gao et al. 2024, half of d_model).
        aux_coefficient: weight of that loss (Gao et al. 2024: 1/32).
        dead_after_tokens: a latent that has not fired for so long counts as dead.
        threshold_rate: step of the running threshold (sae-lens: 0.01).
        error: what the squared error is divided by: `pooled`, a batch's by the batch's variance;
            `per_token`, every token's by its own squared distance from the mean, which is then
            what fvu_per_token measures (TopK family only).
        even_l0: weight of a loss that lets no path of text have an L0 above k: the mean over paths
            of max(0, L0 / k - 1)². One threshold for all text else gives some kinds of it many
            more latents than others (batchtopk and matryoshka only).
        shuffle_batches: batches handed out between two refills of the shuffle ring.
        reuse: how often an activation is trained on, on average, before new ones replace it; a
            cheap way to more steps where the language model is the bottleneck.
        compile: torch.compile the blocks that a pass of the stream goes through without reading;
            needs a C++ compiler, pays in long runs.
        grad_clip: largest norm of the whole gradient.
        kl: train end to end, for a short last stage on `init`: weight of KL(model ‖ model with the
            SAE in place) beside the reconstruction loss, the two brought to one size every step
            (Karvonen 2025, 25 M tokens: a tenth to a half less of the loss in cross entropy). A
            step runs the whole model on batch_size tokens in their order, so that shuffling,
            reuse, cache and compile have no part in it. 0: reconstruction alone.
        dtype: of the language model; on a GPU also of the encoder's matmul, which nominates latents
            that are then computed in float32. SAE weights and optimiser are float32 always. The
            fastest is bfloat16 where the device has units for it, else float32.
        prefetch: chunks read ahead in a thread; default 2 on a GPU, 0 on a CPU, where the model
            and the SAE want the same cores.
        init: a trained SAE of any architecture to start from, as `load_sae` takes it by name (with
            an arch of the TopK family); its latents keep their numbers, and a larger d_sae adds new
            ones behind them. At its own width, with k its L0, it goes on as it was; abstopk only
            from abstopk.
        variants: other SAEs over the same stream, by name: each changes some settings of this one,
            such as `{wide: {d_sae: 16384}, early: {site: resid_post.4}}`. With variants, they and
            not the settings above are what is trained.
    """

    __pydantic_config__ = CLOSED

    model: str
    site: str
    text: TextConfig
    target: str | None = None
    skip: bool = False
    sites: Annotated[list[str], MinLen(1)] | None = None
    supervised: SupervisedConfig | None = None
    arch: Arch = "batchtopk"
    d_sae: Count = 8192
    k: Count = 32
    widths: list[Count] | None = None
    sparsity: Positive = 1.0
    sparsity_warmup_share: Share = 0.1
    n_tokens: Count = 20_000_000
    batch_size: Count = 2048
    lr: Positive = 6e-4
    warmup_steps: Whole = 300
    decay_share: Share = 0.3
    aux_k: Whole = 288
    aux_coefficient: Annotated[float, Ge(0)] = 1 / 32
    dead_after_tokens: Whole = 1_000_000
    threshold_rate: Share = 0.01
    error: Literal["pooled", "per_token"] = "pooled"
    even_l0: Annotated[float, Ge(0)] = 0.0
    shuffle_batches: Count = 16
    reuse: Count = 1
    compile: bool = False
    rows_per_pass: Count = 16
    grad_clip: Positive = 1.0
    kl: Annotated[float, Ge(0)] = 0.0
    dtype: Literal["fastest", "bfloat16", "float32", "float16"] = "fastest"
    init: str | None = None
    seed: Seed = 0
    device: str | None = None
    checkpoint_every_steps: Count = 1000
    keep_checkpoints: Count = 2
    log_every_steps: Count = 50
    prefetch: Whole | None = None
    cache: CacheConfig = field(default_factory=CacheConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.k > self.d_sae:
            raise ConfigError(f"k is {self.k}, but there are only d_sae = {self.d_sae} latents.")
        widths = self.widths
        if widths is not None and (sorted(set(widths)) != widths or widths[-1:] != [self.d_sae]):
            raise ConfigError(f"widths is {widths}; expected rising numbers that end with d_sae.")
        self._check_kind()
        self._check_kl()
        self._check_losses()
        self.check_rows(self.batch_size)
        self.each()

    def _check_kind(self) -> None:
        """Refuse settings of some kinds of SAE and of its relatives that mean nothing here."""
        if self.target is not None and self.sites is not None:
            raise ConfigError("target makes a transcoder and sites a crosscoder; give one of them.")
        if self.widths is not None and self.arch != "matryoshka":
            raise ConfigError(
                f"arch is {self.arch}, but widths are matryoshka's nested prefixes; give "
                "arch: matryoshka, or widths: null."
            )
        if self.skip and self.target is None:
            raise ConfigError("skip is a transcoder's connection from site to target; set target.")
        if len(self.site_names) > 1 and self.arch not in _THRESHOLD_FORMS:
            raise ConfigError(
                f"arch is {self.arch}, but transcoders and crosscoders ship as a threshold: "
                f"{' or '.join(_THRESHOLD_FORMS)}."
            )
        if self.init is not None and (len(self.site_names) > 1 or self.arch not in SPARSE):
            raise ConfigError("init is for SAEs of the TopK family; start others from scratch.")
        if self.supervised is None:
            return
        if self.arch not in SPARSE:
            raise ConfigError(f"arch is {self.arch}, but supervised needs {' or '.join(SPARSE)}.")
        if self.supervised.latent >= self.d_sae:
            raise ConfigError(
                f"supervised.latent is {self.supervised.latent}, but latents are 0 to "
                f"{self.d_sae - 1}."
            )

    def _check_losses(self) -> None:
        """Refuse losses that an architecture hasn't, and what one column can't hold."""
        if self.error != "pooled" and self.arch not in SPARSE:
            raise ConfigError(f"arch is {self.arch}, but error needs {' or '.join(SPARSE)}.")
        if self.even_l0 and self.arch not in _THRESHOLD_FORMS:
            raise ConfigError(
                f"arch is {self.arch}, but even_l0 is for {' or '.join(_THRESHOLD_FORMS)}: others "
                "have k latents on every token, or no threshold that follows them."
            )
        if self.even_l0 and len(self.text.paths) > _MOST_PATHS:
            raise ConfigError(
                f"even_l0 tells at most {_MOST_PATHS} paths apart, and text.path has "
                f"{len(self.text.paths)}; put texts that belong together in one folder."
            )
        if self.even_l0 and self.supervised is not None:
            raise ConfigError("even_l0 and supervised can't be had in one run; leave one out.")

    def check_rows(self, rows: int) -> None:
        """Refuse a batch, or a process's part of one, whose rows can't differ.

        Raises:
            ConfigError: one row, where errors are divided by the variance of the rows.
        """
        if rows < 2 and self.arch in SPARSE:
            raise ConfigError(
                f"batch_size is {self.batch_size}, which leaves one row to a process, but errors "
                "are divided by the variance of its rows; give 2 or more for each process."
            )

    def _check_kl(self) -> None:
        """Refuse what an end-to-end step can't do."""
        if not self.kl:
            return
        if len(self.site_names) > 1 or self.arch not in SPARSE or self.supervised or self.variants:
            raise ConfigError(
                "kl trains one SAE of the TopK family on one site; leave out target, sites, "
                "supervised and variants."
            )
        if self.batch_size % self.text.context or self.cache.path is not None:
            raise ConfigError(
                f"kl runs the model on rows of text.context, {self.text.context}, tokens; make "
                f"batch_size, {self.batch_size}, a multiple of it and leave out cache.path."
            )

    def each(self) -> dict[str, TrainSAEConfig]:
        """The settings of every SAE by name; a single one is named "".

        Raises:
            ConfigError: a variant's name or settings.
        """
        if not self.variants:
            return {"": self}
        return {name: self._variant(name, changes) for name, changes in self.variants.items()}

    def _variant(self, name: str, changes: dict[str, Any]) -> TrainSAEConfig:
        from saesteer.config.load import build_config

        if not _FOLDER.fullmatch(name):
            raise ConfigError(
                f"variant {name!r}: use letters, digits, '.', '_', '=' and '-', and neither "
                "checkpoints nor wandb."
            )
        if fixed := sorted(set(changes) - VARIED):
            raise ConfigError(
                f"variants.{name} sets {', '.join(fixed)}, which variants share or which does not "
                f"exist; they may change {', '.join(sorted(VARIED))}."
            )
        return build_config(
            TrainSAEConfig, {**asdict(self), **changes, "variants": {}}, f"variants.{name}"
        )

    @property
    def site_names(self) -> tuple[str, ...]:
        """The sites of one SAE, a transcoder's target or a crosscoder's others behind `site`."""
        others = self.sites if self.target is None else [self.target]
        return (self.site, *(others or ()))

    @property
    def told(self) -> bool:
        """Whether a batch has a last column, of labels or of numbers of paths."""
        return self.supervised is not None or self.even_l0 > 0

    @property
    def prefix_widths(self) -> tuple[int, ...]:
        """Matryoshka's nested prefixes."""
        usual = sorted({max(1, self.d_sae // 16), max(1, self.d_sae // 4), self.d_sae})
        return tuple(usual if self.widths is None else self.widths)

    @property
    def n_steps(self) -> int:
        """Optimiser steps in the whole run."""
        return max(1, self.n_tokens // self.batch_size)

    @property
    def decay_from(self) -> int:
        """Step at which the learning rate begins to fall."""
        return int(self.n_steps * (1 - self.decay_share))
