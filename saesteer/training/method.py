"""`saesteer train method`: from a config to a saved plan, resumable all the way."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

from saesteer.config import TrainMethodConfig
from saesteer.data.contrast import Contrast
from saesteer.errors import CheckpointError, ConfigError
from saesteer.files import json_text
from saesteer.methods import LearnedMethod
from saesteer.methods.base import read_contrast
from saesteer.methods.learned import MethodLearner
from saesteer.methods.named import METHODS, check_method, make_method
from saesteer.models import Model, load_model
from saesteer.training.checkpoint import write_checkpoint
from saesteer.training.distributed import ALONE, World
from saesteer.training.folder import checkpoint_of, restoring, run_folder, state_of
from saesteer.training.loop import Progress, run_to_end
from saesteer.training.signals import StopRequest, watch_signals

_PLAN = "plan"


@final
@dataclass(eq=False)
class MethodTrainer:
    """A learner with the config and the folder's view of it.

    Attributes:
        learned_from: digests, by their keys in the config, of what a resumed run must find again.
    """

    config: TrainMethodConfig
    learner: MethodLearner
    weights_of_model: str = ""
    wandb_id: str | None = None
    world: World = ALONE
    learned_from: Mapping[str, str] = field(default_factory=dict)

    @property
    def step_count(self) -> int:
        """Steps done."""
        return self.learner.step_count

    @property
    def n_steps(self) -> int:
        """Steps in all."""
        return self.learner.method.n_steps

    @property
    def checkpoint_every_steps(self) -> int:
        """Steps between checkpoints."""
        return self.config.checkpoint_every_steps

    def advance(self) -> Mapping[str, Any]:
        """One step, and what to log of it."""
        measured = self.learner.step(self.learner.turn())
        due = self.step_count % self.config.log_every_steps == 0
        return self.learner.figures(measured) if due or self.step_count == self.n_steps else {}

    def save(self, folder: Path) -> Path:
        """Write a checkpoint.

        Raises:
            OutputError: the disk is full or the folder can't be written.
        """
        state = {**state_of(self), "learned_from": self.learned_from}
        tensors, keep = self.learner.state(), self.config.keep_checkpoints
        return write_checkpoint(folder / "checkpoints", self.step_count, state, {}, tensors, keep)

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            CheckpointError: it is damaged, or was written under another config or with other texts.
        """
        with restoring(path, self) as saved:
            then = saved.state.get("learned_from", self.learned_from)  # older ones don't say
            if changed := [key for key, now in self.learned_from.items() if then[key] != now]:
                raise CheckpointError(
                    f"{path} was written with another {' and another '.join(changed)}; put back "
                    "what it was learned from, or start in another folder."
                )
            self.learner.restore(saved.under(""), saved.state["step"])


def train_method(
    config: TrainMethodConfig,
    out: str | Path,
    *,
    resume: bool = False,
    model: Model | None = None,
    stop: StopRequest | None = None,
    progress: Progress | None = None,
) -> Path | None:
    """Train a method; returns its plan's folder, or None if a signal stopped the run.

    Args:
        out: gets `plan/`, `config.resolved.yaml`, `metrics.jsonl` and `checkpoints/`.
        resume: go on from the last checkpoint in `out`, or start if there is none.
        model: used instead of loading `config.model`.
        stop: a request that some other thread or handler may set; default watches signals.

    Raises:
        OutputError: `out` can't be written, or holds a finished or started run and not `resume`.
        CheckpointError: the checkpoint is damaged or of other settings.
        ConfigError: no such method, or one that is not learned.
        SiteError, DataError: as fitting the method does.
    """
    out = Path(out)
    checkpoint = checkpoint_of(out, resume, [_PLAN])
    method, contrast = read_learned(config), Contrast.read(config.contrast)
    model = model or load_model(config.model, dtype=config.dtype, device=config.device)
    with watch_signals() if stop is None else nullcontext(stop) as request:
        learner = method.learner(model, contrast, config.site)
        trainer = MethodTrainer(config, learner, weights_of_model=model.fingerprint())
        trainer.learned_from = _digests(config, contrast)
        if checkpoint is not None:
            trainer.restore(checkpoint)
        with run_folder(out, trainer, resumed=checkpoint is not None) as tracker:
            if not run_to_end(trainer, out, tracker, request, progress):
                return None
            trainer.learner.plan().save(out / _PLAN, model)
            lineage = {"weights_of_model": trainer.weights_of_model, "config": asdict(config)}
            tracker.artifact(_PLAN, out / _PLAN, lineage, kind="plan")
    return out / _PLAN


def read_learned(config: TrainMethodConfig) -> LearnedMethod:
    """The method that a config describes.

    Raises:
        ConfigError: no such method or setting, a method that is not learned, or a site for one
            that takes none.
    """
    name = config.method_name
    learned = [known for known, kind in METHODS.items() if issubclass(kind, LearnedMethod)]
    if name not in learned:
        what = "is not learned" if name in METHODS else "is unknown"
        raise ConfigError(f"method: {name!r} {what}; learned methods are {', '.join(learned)}.")
    if config.site is not None and not METHODS[name].takes_site:
        raise ConfigError(f"site: {name} acts at places of its own; leave site out.")
    check_method("method", name, config.settings, None)
    method = make_method(name, config.settings, None)
    assert isinstance(method, LearnedMethod)
    return method


def _digests(config: TrainMethodConfig, contrast: Contrast) -> dict[str, str]:
    """What a config names that may change under its name."""
    texts = {"contrast": contrast}
    if (condition := config.settings.get("condition")) is not None:
        texts["condition"] = read_contrast(condition)
    records = {key: json_text([asdict(e) for e in text.examples]) for key, text in texts.items()}
    return {key: hashlib.sha256(each.encode()).hexdigest() for key, each in records.items()}
