"""Methods that are learned by gradient steps: what a loop needs of one, and the plain loop itself.

A `Fitting` holds parameters and knows its loss and the plan they amount to; it knows nothing of
optimisers, files or progress. A `MethodLearner` steps it. `fit` runs the learner to its end;
`saesteer train method` drives the same object with checkpoints and tracking. What a step reads
depends on the seed and the step's number alone, so a run can be taken up at any step, bit for bit.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saesteer.data.contrast import Contrast
from saesteer.errors import DataError
from saesteer.methods.base import Method
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Plan

GRAD_CLIP = 1.0
"""Largest norm of a step's gradient, for fittings that don't say otherwise."""
Rate = Callable[[nn.Parameter], Tensor]
"""How far a gradient of 1 moved each coordinate of a parameter in this step."""
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Turn(NamedTuple):
    """What one step is given.

    Attributes:
        rows: which of the fitting's rows to read, each once an epoch, in a seeded order.
        share: of the run that is over, 0 to 1.
        draw: the step's own source of randomness.
    """

    rows: list[int]
    share: float
    draw: torch.Generator


class Measured(NamedTuple):
    """What one step measured, 0-d each: what is minimised, and its parts by name."""

    loss: Tensor
    parts: Mapping[str, Tensor]


class Fitting(nn.Module, ABC):
    """A learned method on its way to a plan; the model is no part of its parameters.

    Attributes:
        n_rows: how many rows there are to draw batches from.
        grad_clip: largest norm of a step's gradient.
    """

    n_rows: int
    grad_clip: float = GRAD_CLIP

    @abstractmethod
    def loss(self, turn: Turn) -> Measured:
        """The loss of one batch, to be differentiated by the parameters."""

    @abstractmethod
    def plan(self) -> Plan:
        """The plan that the parameters amount to, as they stand."""

    def before_update(self) -> None:
        """Called between backward and the optimiser: constrain gradients."""

    def after_update(self, rate: Rate) -> None:
        """Called after the optimiser: constrain parameters."""


@dataclass(frozen=True)
class LearnedMethod(Method):
    """A method with steps to take.

    Attributes:
        n_steps: optimiser steps.
        batch_size: rows of a step.
        lr: Adam's learning rate at the start; it falls linearly to 0.
        seed: of the parameters, and of what is drawn from then on.
    """

    n_steps: int = 100
    batch_size: int = 8
    lr: float = 1e-2
    seed: int = 0

    @abstractmethod
    def begin(self, model: Model, contrast: Contrast, site: Site | str | None) -> Fitting:
        """The fitting before its first step, its parameters drawn from `seed`.

        Raises:
            SiteError, DataError, ContrastError: as `fit` does.
        """

    def learner(
        self, model: Model | Any, contrast: Contrast, site: Site | str | None = None
    ) -> MethodLearner:
        """What takes the steps; arguments and errors as for `fit`."""
        model = as_model(model)
        with frozen(model):
            return MethodLearner(self, model, self.begin(model, contrast, site))

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """All steps, with a bar where stderr is a terminal; see `Method.fit`.

        Raises:
            DataError: the loss is no number.
        """
        from rich.console import Console
        from rich.progress import Progress

        learner = self.learner(model, contrast, site)
        quiet = not sys.stderr.isatty()
        with Progress(console=Console(stderr=True), transient=True, disable=quiet) as progress:
            task = progress.add_task(f"fit {self.name}", total=self.n_steps)
            while learner.step_count < self.n_steps:
                learner.step(learner.turn())
                progress.advance(task)
        return learner.plan()


@final
@dataclass(eq=False)
class MethodLearner:
    """One method in training; the model is frozen while it steps, and left as it was."""

    method: LearnedMethod
    model: Model
    fitting: Fitting
    step_count: int = 0
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.fitting.parameters(), lr=self.method.lr, fused=True)

    def turn(self) -> Turn:
        """What the next step reads."""
        draw = _generator(self.method.seed, self.step_count)
        rows = _rows(self.method, self.fitting.n_rows, self.step_count)
        return Turn(rows, self.step_count / self.method.n_steps, draw)

    def step(self, turn: Turn) -> Measured:
        """Loss, gradients and update for one batch.

        Raises:
            DataError: the loss is no number.
        """
        lr = self.method.lr * (1.0 - turn.share)
        with frozen(self.model), torch.enable_grad():
            measured = self.fitting.loss(turn)
            if not bool(measured.loss.isfinite()):
                advice = "lower lr" if self.step_count else "check the model's weights"
                raise DataError(
                    f"{self.method.name}: the loss is {float(measured.loss.detach())} at step "
                    f"{self.step_count}; {advice}."
                )
            measured.loss.backward()
        self.fitting.before_update()
        torch.nn.utils.clip_grad_norm_(self.fitting.parameters(), self.fitting.grad_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.fitting.after_update(self._rate)
        self.step_count += 1
        return measured

    def _rate(self, parameter: nn.Parameter) -> Tensor:
        group, moments = self.optimizer.param_groups[0], self.optimizer.state[parameter]
        mean = moments["exp_avg_sq"] / (1.0 - group["betas"][1] ** float(moments["step"]))
        return group["lr"] / (mean.sqrt() + group["eps"])

    def figures(self, measured: Measured) -> dict[str, float]:
        """What to log of a step."""
        parts = {name: float(value.detach()) for name, value in measured.parts.items()}
        lr = self.method.lr * (1.0 - (self.step_count - 1) / self.method.n_steps)
        return {"loss": float(measured.loss.detach()), **parts, "lr": lr}

    def plan(self) -> Plan:
        """The plan as the parameters stand."""
        with torch.no_grad():
            return self.fitting.plan()

    def state(self) -> dict[str, Tensor]:
        """Parameters and moments."""
        tensors = {f"fitting.{n}": p.detach() for n, p in self.fitting.named_parameters()}
        for name, parameter in self.fitting.named_parameters():
            moments = self.optimizer.state.get(parameter, {})
            tensors |= {f"adam.{key}.{name}": value for key, value in moments.items()}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], step_count: int) -> None:
        """Continue from `state()`; raises KeyError or RuntimeError if it is of another learner."""
        with torch.no_grad():
            for name, parameter in self.fitting.named_parameters():
                parameter.copy_(tensors[f"fitting.{name}"])
                if step_count:
                    self.optimizer.state[parameter] = {
                        key: tensors[f"adam.{key}.{name}"].to(parameter.device).clone()
                        for key in _MOMENTS
                    }
        self.step_count = step_count


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """Within it, no weight of the model takes a gradient and nothing is dropped out."""
    learning = [p for p in model.hf.parameters() if p.requires_grad]
    training = [m for m in model.hf.modules() if m.training]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        for module in training:
            module.training = False
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


def shrunk(
    values: Float[Tensor, " n"], rate: Float[Tensor, " n"], each: float, group: float
) -> Float[Tensor, " n"]:
    """Soft threshold of every value, then of their Euclidean norm (times √n), at these rates."""
    kept = values.sign() * (values.abs() - rate * each).clamp(min=0.0)
    reach = float(rate.mean()) * group * len(kept) ** 0.5
    norm = float(kept.norm())
    return kept * max(0.0, 1.0 - reach / norm) if norm > 0 else kept


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it, PyTorch's layers start from `seed`; its global randomness stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _rows(method: LearnedMethod, n_rows: int, step: int) -> list[int]:
    """A batch of an endless series of shuffled epochs; the last of one may run into the next."""
    size = min(method.batch_size, n_rows)
    first = step * size
    orders: dict[int, list[int]] = {}
    rows: list[int] = []
    for place in range(first, first + size):
        epoch, index = divmod(place, n_rows)
        if epoch not in orders:
            draw = _generator(method.seed, ~epoch)
            orders[epoch] = torch.randperm(n_rows, generator=draw).tolist()
        rows.append(orders[epoch][index])
    return rows


def _generator(seed: int, number: int) -> torch.Generator:
    """A source of randomness for one step (number >= 0) or one epoch (number < 0)."""
    mixed = (seed * 1_000_003 + number) % (2**63 - 1)
    return torch.Generator().manual_seed(math.floor(mixed))
