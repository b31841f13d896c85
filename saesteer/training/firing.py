"""Which latents fire, how often and when they last did; noting it never waits for the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saesteer.metrics.density import Density, density_of


@final
class Firing:
    """Statistics of `d_sae` latents over the tokens of a run.

    Attributes:
        seen: tokens seen, 0-d.
        last: tokens seen when each latent last fired, `[d_sae]`.
    """

    def __init__(self, d_sae: int, device: Any) -> None:
        self.seen = torch.zeros((), dtype=torch.long, device=device)
        self.last = torch.zeros(d_sae, dtype=torch.long, device=device)
        self._counts = torch.zeros(d_sae, device=device)
        self._counted = torch.zeros((), dtype=torch.long, device=device)

    def note(self, fires: Float[Tensor, " d_sae"], n_tokens: int) -> None:
        """Add a batch of `n_tokens`."""
        self.seen += n_tokens
        self.last.copy_(torch.where(fires > 0, self.seen, self.last))
        self._counts += fires
        self._counted += n_tokens

    def silent(self, window: int) -> Int[Tensor, " n"] | None:
        """Latents that have not fired in the last `window` tokens, None if all have; waits."""
        found = (self.seen - self.last > window).nonzero().squeeze(1)
        return found if len(found) else None

    def density(self) -> Density:
        """How often latents fired since this was last asked."""
        density = density_of(self._counts.long(), int(self._counted))
        self._counts.zero_()
        self._counted.zero_()
        return density

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors."""
        counts = {"counts": self._counts, "counted": self._counted}
        return {"seen": self.seen, "last": self.last, **counts}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state()`."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
