"""`saesteer train sae`: from a config to folders in sae-lens format, resumable all the way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saesteer.config import TrainSAEConfig, dump_config
from saesteer.data.activations import ActivationStream
from saesteer.data.cache import ActivationCache, CachedSource
from saesteer.data.prefetch import Prefetched
from saesteer.data.ring import ShuffleRing
from saesteer.data.sources import Columns, ModelSource, Source
from saesteer.data.tokens import TokenStream
from saesteer.errors import ConfigError, OutputError, SaesteerError
from saesteer.models import Model, load_model
from saesteer.saes import save_sae
from saesteer.tracking import JsonlTracker, Tracker, Trackers, WandbTracker
from saesteer.training.learner import Learner
from saesteer.training.signals import StopRequest, watch_signals
from saesteer.training.trainer import Progress, SAETrainer, last_checkpoint

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
    """Train SAEs; returns their folder, or None if a signal stopped the run after a checkpoint.

    Args:
        out: gets `cfg.json`, `sae_weights.safetensors` (in a folder for each of the variants, if
            there are some), `config.resolved.yaml`, `metrics.jsonl` and `checkpoints/`.
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
    trainer = open_trainer(config, model)
    try:
        if checkpoint is not None:
            trainer.restore(checkpoint)
        with _run_folder(out, trainer):
            tracker = _open_tracker(config, out, trainer, resumed=checkpoint is not None)
            try:
                with watch_signals() if stop is None else nullcontext(stop) as request:
                    finished = trainer.run(out, tracker, request, progress)
            finally:
                tracker.finish()
    finally:
        if isinstance(trainer.stream.source, Prefetched):
            trainer.stream.source.close()
    if not finished:
        return None
    for name, learner in trainer.learners.items():
        extra = training_metadata(trainer, learner)
        save_sae(learner.to_sae(model.name), out / name, extra_metadata=extra)
    return out


def open_trainer(config: TrainSAEConfig, model: Model) -> SAETrainer:
    """A trainer at step 0 on the stream that a config describes.

    Raises:
        SiteError: the model has no such site.
        ConfigError: rows longer than the model has positions.
        DataError: a text path holds nothing readable.
        OutputError: the cache asked for can't be written.
    """
    columns = Columns.of(model, [model.check_site(each.site) for each in config.each().values()])
    ring = ShuffleRing(
        columns.width,
        config.batch_size,
        config.shuffle_batches,
        seed=config.seed + 1,
        dtype=model.dtype,
        device=model.device,
        reuse=config.reuse,
    )
    source = _open_source(config, model, columns)
    depth = config.prefetch
    if depth is None:
        depth = 2 if model.device.type == "cuda" else 0
    stream = ActivationStream(Prefetched(source, depth) if depth else source, ring)
    return SAETrainer.create(config, stream, columns, model.device)


def _open_source(config: TrainSAEConfig, model: Model, columns: Columns) -> Source:
    """The model itself, or a cache that it has filled."""
    _check_context(config, model)
    tokens = TokenStream(
        config.text.paths,
        model.tokenizer,
        context=config.text.context,
        weights=config.text.weights,
        passes=config.text.passes,
        text_field=config.text.field,
    )
    if config.compile:
        for block in model.layout.blocks[: columns.sites[-1].layer]:
            block.compile(dynamic=False)
    source = ModelSource(model, columns, tokens, config.rows_per_pass)
    if config.cache.path is None:
        return source
    cache = ActivationCache(
        config.cache.path,
        {
            "model": model.name,
            "sites": [str(site) for site in columns.sites],
            "text": asdict(config.text),
            "dtype": config.dtype,
            "rows_per_pass": config.rows_per_pass,
        },
        width=columns.width,
        dtype=model.dtype,
        rows_per_shard=config.cache.rows_per_shard,
    )
    cache.fill(source, _rows_needed(config))
    return CachedSource(cache, passes=config.cache.passes, seed=config.seed)


def _rows_needed(config: TrainSAEConfig) -> int:
    """Rows that a run takes from its source, per pass over the cache."""
    drawn = config.n_steps * config.batch_size
    ring = 2 * config.shuffle_batches * config.batch_size
    return -(-(drawn // config.reuse + ring) // config.cache.passes)


def _check_context(config: TrainSAEConfig, model: Model) -> None:
    limit = getattr(model.hf.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and config.text.context > limit:
        raise ConfigError(
            f"text.context is {config.text.context}, but {model.name} has {limit} positions; "
            "lower text.context."
        )


def training_metadata(trainer: SAETrainer, learner: Learner) -> dict[str, Any]:
    """What a reader of the SAE's file should know of its training."""
    return {
        "trained_with": "saesteer",
        "arch": learner.config.arch,
        "k": learner.config.k,
        "n_tokens": trainer.stream.n_tokens,
        "n_tokens_read": trainer.stream.n_read,
        "context_size": trainer.config.text.context,
        "dead_fraction": learner.dead_fraction(),
        "seed": learner.config.seed,
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
