"""What the trainer needs of an SAE in training, whatever its architecture.

A coder holds weights and knows its loss; it knows nothing of optimisers, schedules, streams, files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saesteer.axes import Rows
from saesteer.models import Site
from saesteer.saes import AnyCoder


@dataclass(frozen=True)
class StepResult:
    """What one step measured, as tensors on the device; reading them is the caller's choice.

    Attributes:
        loss: what is minimised; 0-d.
        fvu: squared error over the variance of the batch, of the whole SAE; 0-d.
        fvu_per_token: the same token by token, then averaged; 0-d.
        aux: auxiliary or sparsity loss before its coefficient; 0-d.
        l0: active latents per token; 0-d.
        threshold: smallest latent that survived in this batch, infinite if none did; 0-d.
        fires: on how many tokens each latent was active, `[d_sae]`.
        extra: what only some losses measure, by name; 0-d each.
        recon: what was rebuilt, `[n, d_model]` in the coder's own scale and with gradients, where
            an SAE of one site can say so.
        survivors: row of each active latent and its value, `[n]` each, the values with gradients,
            where latents are sparse.
    """

    loss: Tensor
    fvu: Tensor
    fvu_per_token: Tensor
    aux: Tensor
    l0: Tensor
    threshold: Tensor
    fires: Float[Tensor, " d_sae"]
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    recon: Tensor | None = None
    survivors: tuple[Tensor, Tensor] | None = None

    def measures(self) -> dict[str, Tensor]:
        """The 0-d measures by name, detached."""
        names = ("loss", "fvu", "fvu_per_token", "aux", "l0", "threshold")
        measured = {name: getattr(self, name) for name in names} | {**self.extra}
        return {name: value.detach() for name, value in measured.items()}

    def figures(self) -> dict[str, float]:
        """The 0-d measures as numbers; waits for the device."""
        return {name: float(value) for name, value in self.measures().items()}


class Coder(nn.Module, ABC):
    """One SAE's weights and loss, or a transcoder's or a crosscoder's; `loss` is the way in.

    A batch has the columns of its sites side by side, in the order of the config.
    """

    @property
    def replayable(self) -> bool:
        """Whether a step does the same for every batch, of the same sizes and with no answer from
        the device, so that a GPU can record and replay it."""
        return False

    @abstractmethod
    def loss(self, batch: Rows, dead: Int[Tensor, " n_dead"] | None) -> StepResult:
        """Loss of one batch of raw activations; call `.loss.backward()` on it.

        Args:
            dead: indices of dead latents, or None where there are none.
        """

    @abstractmethod
    def initialise(self, sample: Rows) -> None:
        """Set the scale, and what else depends on data, from some activations."""

    @abstractmethod
    def before_update(self) -> None:
        """Called between backward and the optimiser: constrain gradients."""

    @abstractmethod
    def after_update(self, result: StepResult) -> None:
        """Called after the optimiser: constrain weights, follow statistics."""

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """What else to log of this architecture."""

    @abstractmethod
    def to_sae(self, sites: Sequence[Site], model_name: str) -> AnyCoder:
        """The SAE as it ships, scales folded in, on the CPU.

        Latents keep the scale in which the mean squared norm of the activations is d_model, so a
        latent of 6 weighs about 6 / sqrt(d_model) of a typical activation.
        """


@torch.no_grad()
def scale_of(sample: Rows) -> Float[Tensor, ""]:
    """What brings the mean squared norm of `sample` to its width."""
    rms = sample.float().pow(2).sum(-1).mean().sqrt()
    return sample.shape[-1] ** 0.5 / rms


def squares(x: Rows) -> Float[Tensor, " n"]:
    """Squared norm of every row."""
    return x.pow(2).sum(-1)
