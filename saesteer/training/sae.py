"""`saesteer train sae`: from a config to folders in sae-lens format, resumable all the way."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saesteer.config import TrainSAEConfig, as_config
from saesteer.models import Model, load_model
from saesteer.saes import SAE, save_sae
from saesteer.tracking import Tracker
from saesteer.training.distributed import ALONE, World
from saesteer.training.estimate import memory_of, shortage
from saesteer.training.folder import checkpoint_of, run_folder
from saesteer.training.learner import Learner
from saesteer.training.loop import Progress
from saesteer.training.rates import device_memory, settled
from saesteer.training.signals import StopRequest, watch_signals
from saesteer.training.streams import columns_of, fill_cache, open_stream
from saesteer.training.trainer import SAETrainer

Score = Callable[[SAE], Mapping[str, float]]
Scorer = Callable[[Model], Score]
"""Called once, before the first step."""


def train_sae(
    config: TrainSAEConfig | Mapping[str, Any] | str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    model: Model | None = None,
    stop: StopRequest | None = None,
    progress: Progress | None = None,
    scorer: Scorer | None = None,
    world: World = ALONE,
) -> Path | None:
    """Train SAEs; returns their folder, or None if a signal stopped the run after a checkpoint.

    In a world of several processes all call it, with the same arguments and an `out` that all see.

    Args:
        config: also as plain keys and values, or as the path of a YAML file.
        out: gets `cfg.json`, `sae_weights.safetensors` (in a folder for each of the variants, if
            there are some), `config.resolved.yaml`, `metrics.jsonl` and `checkpoints/`.
        resume: go on from the last checkpoint in `out`, or start if there is none.
        model: used instead of loading `config.model`.
        stop: a request that some other thread or handler may set; default watches signals.
        progress: called in the leading process.
        scorer: given the model, says what scores an SAE every `score.every_steps`; see
            `evals.held_out_scorer`.
        world: what `join_world` gives.

    Raises:
        ConfigError: a config that is none.
        OutputError: `out` can't be written, or holds a finished or started run and not `resume`.
        CheckpointError: the checkpoint is damaged or of other settings.
        DataError: the text is missing, unreadable, or ends early.
        PeerError: another process has ended.
    """
    config, out = as_config(TrainSAEConfig, config), Path(out)
    results = [f"{name}/cfg.json" if name else "cfg.json" for name in config.each()]
    checkpoint = checkpoint_of(out, resume, results, world)
    device = world.device or config.device
    model = model or load_model(config.model, dtype=config.dtype, device=device)
    config = settled(config, model.device)
    progress = progress if world.leads else None
    score = scorer and scorer(model)
    _warn_of_memory(config, model, world)
    with watch_signals() if stop is None else nullcontext(stop) as request:
        if config.cache.path and not fill_cache(config, model, request, progress, world):
            return None
        trainer = open_trainer(config, model, world)
        trainer.scorer = score
        return out if _train(trainer, model, checkpoint, out, request, progress) else None


def _train(
    trainer: SAETrainer,
    model: Model,
    checkpoint: Path | None,
    out: Path,
    stop: StopRequest,
    progress: Progress | None,
) -> bool:
    """From the checkpoint, or the first step, to the SAEs on disk; False if a signal came first."""
    if checkpoint is not None:
        trainer.restore(checkpoint)
    folder = run_folder(out, trainer, resumed=checkpoint is not None)
    with folder as tracker, closing(trainer.stream):
        if finished := trainer.run(out, tracker, stop, progress):
            _save_saes(trainer, model, out, tracker)
    trainer.world.wait()  # torchrun ends all when one has left with a status that is not 0
    return finished


def _warn_of_memory(config: TrainSAEConfig, model: Model, world: World) -> None:
    """Say so on stderr, once, where the run will hardly fit."""
    device = str(model.device)
    short = shortage(memory_of(config, model, world.size, device), device_memory(device))
    if short is not None and world.leads:
        print(f"saesteer: {short}", file=sys.stderr)


def _save_saes(trainer: SAETrainer, model: Model, out: Path, tracker: Tracker) -> None:
    """Write every SAE and have it tracked; none returns before all are on disk."""
    counts = trainer.counts()
    for name, learner in trainer.own().items():
        extra = training_metadata(learner, counts)
        save_sae(learner.to_sae(model.name), out / name, extra_metadata=extra)
    trainer.world.wait()
    _record_lineage(trainer, out, tracker)


def _record_lineage(trainer: SAETrainer, out: Path, tracker: Tracker) -> None:
    """Have the tracker keep every SAE beside what it came from."""
    counts = trainer.counts()
    if not trainer.world.leads:  # it tracks nothing, and need not read all weights for it
        return
    origin = {"weights_of_model": trainer.weights_of_model, **counts}
    for name, config in trainer.config.each().items():
        tracker.artifact(name or "sae", out / name, {**origin, "config": asdict(config)})


def open_trainer(config: TrainSAEConfig, model: Model, world: World = ALONE) -> SAETrainer:
    """A trainer at step 0 on the stream that a config describes; a cache must have been filled.

    Raises:
        SiteError, ConfigError, DataError: as `columns_of` and `open_stream` do.
    """
    config = settled(config, model.device)
    columns = columns_of(config, model)
    stream = open_stream(config, model, columns, world)
    trainer = SAETrainer.create(config, stream, columns, model.device, world)
    trainer.weights_of_model = model.fingerprint()
    return trainer


def training_metadata(learner: Learner, counts: Mapping[str, int]) -> dict[str, Any]:
    """What a reader of the SAE's file should know of its training."""
    supervised = learner.config.supervised
    return {
        "trained_with": "saesteer",
        "arch": learner.config.arch,
        "k": learner.config.k,
        "n_tokens": counts["n_tokens"],
        "n_tokens_read": counts["n_read"],
        "context_size": learner.config.text.context,
        "dead_fraction": learner.dead_fraction(),
        "seed": learner.config.seed,
        **({} if supervised is None else {"supervised_latent": supervised.latent}),
    }
