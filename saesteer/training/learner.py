"""One SAE in training: a coder, its optimiser, its schedule, and how its latents fire."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saesteer.axes import Rows
from saesteer.config import TrainSAEConfig
from saesteer.data.activations import under
from saesteer.errors import DataError
from saesteer.models import Site
from saesteer.saes import AnyCoder
from saesteer.training.build import build_coder, sites_of
from saesteer.training.coder import Coder, StepResult
from saesteer.training.distributed import ALONE, World
from saesteer.training.firing import Firing
from saesteer.training.recorded import RecordedStep
from saesteer.training.sparse import SparseCoder
from saesteer.training.told import ToldCoder

Downstream = Callable[[Rows], Float[Tensor, ""]]
"""What a reconstruction of the batch at hand costs behind its site, with gradients."""

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_NOTHING = 1e-9
"""Nats a token below which two distributions count as equal."""
_LOOK_EVERY = 16
"""Steps between two looks, on a GPU, at which latents are dead: each makes it wait."""
_WARM = 3
"""Steps before one is recorded: kernels are compiled and moments exist by then."""


@final
@dataclass(eq=False)
class Learner:
    """A step is `batch -> StepResult`; logging, saving and the stream stand outside.

    Attributes:
        firing: how often and when its latents fired.
        step_count: optimiser steps done.
        grad_norm: of the last step's whole gradient, before it was clipped.
        peers: processes that train the same weights, each on its part of the batch.
        downstream: a second loss, weighed by `config.kl`; None trains on reconstruction alone.
    """

    config: TrainSAEConfig
    coder: Coder
    optimizer: torch.optim.Optimizer
    firing: Firing
    step_count: int = 0
    grad_norm: Tensor | None = None
    peers: World = ALONE
    downstream: Downstream | None = None

    def __post_init__(self) -> None:
        self._dead: Tensor | None = None
        self._replay: RecordedStep | None = None
        self._warm = 0

    @classmethod
    def create(
        cls, config: TrainSAEConfig, widths: Sequence[int], device: Any, peers: World = ALONE
    ) -> Learner:
        """A learner at step 0, of the widths of its sites; its first batch sets scale and bias."""
        coder = build_coder(config, widths, device)
        on_cuda = torch.device(device).type == "cuda"
        rate: Any = torch.tensor(config.lr, device=device) if on_cuda else config.lr
        optimizer = torch.optim.Adam(coder.parameters(), rate, fused=True, capturable=on_cuda)
        return cls(config, coder, optimizer, Firing(config.d_sae, device), peers=peers)

    @property
    def tokens_seen(self) -> int:
        """Tokens trained on."""
        return self.step_count * self.config.batch_size

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where it reads and writes: one site, a transcoder's two, or a crosscoder's."""
        return sites_of(self.config)

    def step(self, batch: Rows) -> StepResult:
        """Loss, gradients and update for one batch, or this process's part of it.

        Args:
            batch: `[batch_size / peers, d_model]`.

        Returns:
            measures of the whole batch, means over its parts.
        """
        if self.step_count == 0:
            self.coder.initialise(self.peers.rows(batch))
        if not batch.is_cuda or self.step_count % _LOOK_EVERY == 0:
            self._dead = self.firing.silent(self.config.dead_after_tokens)
        self._set_rate(learning_rate(self.config, self.step_count))
        replay = self._replay_for(batch)
        result = replay(batch) if replay else self._update(batch)
        self.step_count += 1
        return result

    def _update(self, batch: Rows) -> StepResult:
        """What a step does on the device."""
        coder = self.coder
        result = coder.loss(batch, self._dead)
        if self.downstream is not None:
            result = self._end_to_end(result, self.downstream)
        result.loss.backward()
        result = self._of_all(result)
        coder.before_update()
        self.grad_norm = torch.nn.utils.clip_grad_norm_(coder.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        coder.after_update(result)
        self.firing.note(result.fires, self.config.batch_size)
        return result

    def _end_to_end(self, result: StepResult, downstream: Downstream) -> StepResult:
        """The loss and `config.kl` times as much of what the reconstruction costs downstream."""
        assert isinstance(self.coder, SparseCoder | ToldCoder)
        assert result.recon is not None
        cost = downstream(self.coder.raw(result.recon))
        weight = self.config.kl * result.loss.detach() / cost.detach().clamp(min=_NOTHING)
        extra = {**result.extra, "kl": cost.detach()}
        return replace(result, loss=result.loss + weight * cost, extra=extra)

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _replay_for(self, batch: Rows) -> RecordedStep | None:
        """The recorded step, recorded now if it is time; None where a step must be launched."""
        alone = self.peers.size == 1 and self._dead is None and self.downstream is None
        if not (batch.is_cuda and alone and self.coder.replayable):
            return None
        self._warm += 1
        if self._warm <= _WARM:
            return None
        if self._replay is None:
            self._replay = RecordedStep(self._update, batch)
        return self._replay if self._replay.fits(batch) else None

    def _of_all(self, result: StepResult) -> StepResult:
        """Average gradients and measures over the peers, and add up what fired.

        All that moves weights and statistics is equal on every peer from here on.
        """
        measures, fires = result.measures(), result.fires
        values = torch.stack(list(measures.values()))
        gradients = [p.grad for p in self.coder.parameters() if p.grad is not None]
        self.peers.average([*gradients, values, fires])
        means = dict(zip(measures, values.unbind(), strict=True))
        extra = {name: means.pop(name) for name in result.extra}
        return StepResult(**means, fires=fires * self.peers.size, extra=extra, survivors=None)

    def dead(self, window_tokens: int | None = None) -> Int[Tensor, " n_dead"] | None:
        """Latents that have not fired for `dead_after_tokens`; None where there are none."""
        window = self.config.dead_after_tokens if window_tokens is None else window_tokens
        return self.firing.silent(window)

    def dead_fraction(self, window_tokens: int = 10_000_000) -> float:
        """Share of latents that did not fire in the last `window_tokens` (at most half the run)."""
        return self._share(self.dead(min(window_tokens, self.tokens_seen // 2)))

    def _share(self, latents: Tensor | None) -> float:
        return 0.0 if latents is None else len(latents) / self.config.d_sae

    def figures(self, result: StepResult) -> dict[str, float]:
        """What to log of a step.

        Raises:
            DataError: the loss is no number.
        """
        figures = result.figures()
        if not math.isfinite(figures["loss"]):
            raise DataError(_diverged(f"the loss is {figures['loss']}", self.step_count))
        return {
            **figures,
            **self.coder.figures(),
            "grad_norm": math.nan if self.grad_norm is None else float(self.grad_norm),
            "dead_fraction": self._share(self.dead()),
            "lr": learning_rate(self.config, self.step_count - 1),
        }

    def state(self) -> dict[str, Tensor]:
        """Weights, moments and statistics.

        Raises:
            DataError: a weight is no number.
        """
        if not all(bool(weight.isfinite().all()) for weight in self.coder.parameters()):
            raise DataError(_diverged("a weight is NaN or infinite", self.step_count))
        tensors = {f"coder.{name}": value for name, value in self.coder.state_dict().items()}
        for name, parameter in self.coder.named_parameters():
            moments = self.optimizer.state.get(parameter, {})
            tensors |= {f"adam.{key}.{name}": value for key, value in moments.items()}
        if self._dead is not None:
            tensors["dead"] = self._dead
        return tensors | {f"firing.{name}": t for name, t in self.firing.state().items()}

    def restore(self, tensors: Mapping[str, Tensor], step_count: int) -> None:
        """Continue from `state()`; raises KeyError or RuntimeError if it is of another learner."""
        self.coder.load_state_dict(under("coder.", tensors))
        for name, parameter in self.coder.named_parameters():
            self.optimizer.state[parameter] = {
                key: tensors[f"adam.{key}.{name}"].to(parameter.device) for key in _MOMENTS
            }
        self.firing.restore(under("firing.", tensors))
        dead = tensors.get("dead")
        self._dead = None if dead is None else dead.to(self.firing.last.device)
        self._replay, self._warm = None, 0
        self.step_count = step_count

    def to_sae(self, model_name: str) -> AnyCoder:
        """The SAE as it ships."""
        return self.coder.to_sae(self.sites, model_name)


def learning_rate(config: TrainSAEConfig, step: int) -> float:
    """Linear warm-up, flat, linear tail to zero."""
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    tail = config.n_steps - config.decay_from
    fall = min(1.0, (config.n_steps - step) / tail) if tail else 1.0
    return config.lr * rise * fall


def _diverged(what: str, step: int) -> str:
    return (
        f"{what} at step {step}; lower lr, or look at the activations. "
        "Earlier checkpoints are intact."
    )
