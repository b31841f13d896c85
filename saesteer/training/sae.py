"""`saesteer train sae`: from a config to a folder in sae-lens format, resumable all the way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from saesteer.config import TrainSAEConfig, dump_config
from saesteer.data.activations import ActivationStream
from saesteer.data.ring import ShuffleRing
from saesteer.data.tokens import TokenStream
from saesteer.errors import ConfigError, OutputError, SaesteerError
from saesteer.models import Model, Site, load_model
from saesteer.saes import SAE, save_sae
from saesteer.tracking import JsonlTracker, Tracker, Trackers, WandbTracker
from saesteer.training.trainer import (
    Progress,
    SAETrainer,
    StopRequest,
    last_checkpoint,
    watch_signals,
)

_CONFIG = "config.resolved.yaml"
_METRICS = "metrics.jsonl"


def train_sae(
    config: TrainSAEConfig,
    out: str | Path,
    *,
    resume: bool = False,
    model: Model | None = None,
    stop: StopRequest | None = None,
    progress: Progress | None = None,
) -> Path | None:
    """Train one SAE; returns its folder, or None if a signal stopped the run after a checkpoint.

    Args:
        out: gets `cfg.json`, `sae_weights.safetensors`, `config.resolved.yaml`, `metrics.jsonl`
            and `checkpoints/`.
        resume: go on from the last checkpoint in `out`, or start if there is none.
        model: used instead of loading `config.model`.
        stop: a request that some other thread or handler may set; default watches signals.

    Raises:
        OutputError: `out` can't be written, or holds a finished or started run and not `resume`.
        CheckpointError: the checkpoint is damaged or of other settings.
        DataError: the text is missing, unreadable, or ends early.
    """
    out = Path(out)
    checkpoint = _checkpoint_of(out, resume)
    model = model or load_model(config.model, dtype=config.dtype, device=config.device)
    trainer = SAETrainer.create(config, open_stream(config, model))
    if checkpoint is not None:
        trainer.restore(checkpoint)
    with _run_folder(out, trainer):
        tracker = _open_tracker(config, out, trainer, resumed=checkpoint is not None)
        try:
            with watch_signals() if stop is None else nullcontext(stop) as request:
                finished = trainer.run(out, tracker, request, progress)
        finally:
            tracker.finish()
    if not finished:
        return None
    return save_sae(to_sae(trainer, model.name), out, extra_metadata=training_metadata(trainer))


def open_stream(config: TrainSAEConfig, model: Model) -> ActivationStream:
    """The activation stream that a config describes, at its beginning.

    Raises:
        SiteError: the model has no such site.
        ConfigError: rows longer than the model has positions.
        DataError: a text path holds nothing readable.
    """
    site = model.check_site(config.site)
    _check_context(config, model)
    tokens = TokenStream(
        config.text.paths,
        model.tokenizer,
        context=config.text.context,
        weights=config.text.weights,
        passes=config.text.passes,
        text_field=config.text.field,
    )
    ring = ShuffleRing(
        model.layout.width(site),
        config.batch_size,
        config.shuffle_batches,
        seed=config.seed + 1,
        dtype=model.dtype,
        device=model.device,
        reuse=config.reuse,
    )
    if config.compile:
        for block in model.layout.blocks[: site.layer]:
            block.compile(dynamic=False)
    return ActivationStream(model, site, tokens, ring, config.rows_per_pass)


def _check_context(config: TrainSAEConfig, model: Model) -> None:
    limit = getattr(model.hf.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and config.text.context > limit:
        raise ConfigError(
            f"text.context is {config.text.context}, but {model.name} has {limit} positions; "
            "lower text.context."
        )


@torch.no_grad()
def to_sae(trainer: SAETrainer, model_name: str) -> SAE:
    """The SAE as it ships: input scale folded in, BatchTopK as its running threshold.

    Latents keep the scale in which the mean squared norm of the activations is d_model, so a
    latent of 6 weighs about 6 / sqrt(d_model) of a typical activation.
    """
    module, config = trainer.module, trainer.config
    scale = module.input_scale
    threshold = module.threshold if config.arch == "batchtopk" else torch.zeros_like(scale)
    return SAE(
        w_enc=(module.w_enc.t() * scale).contiguous().cpu(),
        b_enc=module.b_enc.detach().clone().cpu(),
        w_dec=(module.w_dec / scale).contiguous().cpu(),
        b_dec=(module.b_dec / scale).cpu(),
        threshold=threshold.expand(config.d_sae).clone().cpu(),
        site=Site.parse(config.site),
        activation="jumprelu" if config.arch == "batchtopk" else "topk",
        k=config.k,
        apply_b_dec_to_input=True,
        model_name=model_name,
        name=f"{model_name}/{config.site}",
    )


def training_metadata(trainer: SAETrainer) -> dict[str, Any]:
    """What a reader of the SAE's file should know of its training."""
    return {
        "trained_with": "saesteer",
        "arch": trainer.config.arch,
        "k": trainer.config.k,
        "n_tokens": trainer.stream.n_tokens,
        "n_tokens_read": trainer.stream.n_read,
        "context_size": trainer.config.text.context,
        "dead_fraction": trainer.dead_fraction(),
        "seed": trainer.config.seed,
    }


def _checkpoint_of(out: Path, resume: bool) -> Path | None:
    """The checkpoint to go on from; a run that is not to be resumed must not be there."""
    checkpoint = last_checkpoint(out)
    if not resume and (checkpoint is not None or (out / "cfg.json").exists()):
        raise OutputError(f"{out} already holds a run; pass --resume, or choose another folder.")
    return checkpoint


@contextmanager
def _run_folder(out: Path, trainer: SAETrainer) -> Iterator[None]:
    """Make `out` and write its config; a run that fails before its first step leaves nothing."""
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / _CONFIG).write_text(dump_config(trainer.config), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{out} can't be written: {error.strerror}.") from error
    try:
        yield
    except SaesteerError:
        if trainer.step_count == 0:
            for name in (_CONFIG, _METRICS):
                (out / name).unlink(missing_ok=True)
            if made:
                shutil.rmtree(out, ignore_errors=True)
        raise


def _open_tracker(
    config: TrainSAEConfig, out: Path, trainer: SAETrainer, *, resumed: bool
) -> Tracker:
    step = trainer.step_count if resumed else None
    trackers: list[Tracker] = []
    if config.wandb.project is not None:
        wandb = WandbTracker(
            project=config.wandb.project,
            name=config.wandb.name,
            mode=config.wandb.mode,
            folder=out,
            config=asdict(config),
            run_id=trainer.wandb_id,
        )
        trainer.wandb_id = wandb.run_id
        trackers.append(wandb)
    return Trackers(JsonlTracker(out / _METRICS, step), *trackers)
