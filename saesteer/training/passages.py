"""Text in its own order, for training end to end: what the model makes of a reconstruction.

Source: Karvonen 2025, Revisiting End-To-End Sparse Autoencoder Training: A Short Finetune Is All
You Need.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saesteer.axes import Rows
from saesteer.data.activations import COUNTS
from saesteer.data.sources import ModelSource
from saesteer.errors import ConfigError
from saesteer.methods.learned import frozen
from saesteer.metrics.language import mean_kl
from saesteer.models import TokenBatch
from saesteer.models.replay import Replay


class _Passage(NamedTuple):
    """Rows that the model has read: activations, the tokens that count, and its own logits."""

    tokens: TokenBatch
    resid: Float[Tensor, "rows context d_model"]
    keep: Bool[Tensor, "rows context"]
    clean: Float[Tensor, "rows context vocab"]


@final
@dataclass(eq=False)
class PassageStream:
    """Batches of activations in the text's order, and what their reconstructions cost behind them.

    Its place and counts are those of an `ActivationStream`.

    Attributes:
        rows: packed rows in one batch.
    """

    source: ModelSource
    rows: int
    n_tokens: int = 0
    n_outliers: int = 0
    n_read: int = 0

    def __post_init__(self) -> None:
        (site,) = self.source.columns.sites
        self._replay = Replay(self.source.model, site)
        self._passage: _Passage | None = None

    @torch.no_grad()
    def next_batch(self) -> Rows | None:
        """Activations of the next rows; None when the text has ended."""
        self._passage = None
        rows = self.source.tokens.next_rows(self.rows)
        if rows is None:
            return None
        (resid,), keep, n_outliers = self.source.read(rows)
        mask = torch.ones_like(rows.input_ids, dtype=torch.bool)
        tokens = TokenBatch(rows.input_ids, mask, rows.position_ids).to(resid.device)
        self._passage = _Passage(tokens, resid, keep, self._replay(tokens, resid))
        batch = self.source.kept(rows, [resid], keep)
        self.n_tokens += len(batch)
        self.n_outliers += n_outliers
        self.n_read += keep.numel()
        return batch

    def divergence(self, recon: Rows) -> Float[Tensor, ""]:
        """Mean KL(model ‖ model with `recon` in place of the last batch), nats a token."""
        assert self._passage is not None, "no batch has been read"
        tokens, resid, keep, clean = self._passage
        with frozen(self.source.model):
            changed = self._replay(tokens, resid.index_put((keep,), recon.to(resid.dtype)))
        return mean_kl(clean, changed)

    def paused(self) -> AbstractContextManager[None]:
        """Nothing is read ahead."""
        return nullcontext()

    def close(self) -> None:
        """Nothing is read ahead."""

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The stream's place: what fits JSON, and no tensors."""
        return {"source": self.source.state(), **self.counts()}, {}

    def counts(self) -> dict[str, int]:
        """Tokens drawn, left out and read."""
        return {name: getattr(self, name) for name in COUNTS}

    def restore(self, place: dict[str, Any], tensors: dict[str, Tensor]) -> None:  # noqa: ARG002
        """Continue from `state()` of a stream with the same settings."""
        self.source.restore(place["source"])
        for name in COUNTS:
            setattr(self, name, place[name])

    def take_over(self, parts: Sequence[Any], rank: int, size: int) -> None:  # noqa: ARG002
        """Raises ConfigError: it is one process's."""
        raise ConfigError(ONE_PROCESS)


ONE_PROCESS = "kl trains in one process; start saesteer without torchrun, or leave kl out."
