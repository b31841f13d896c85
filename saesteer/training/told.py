"""A coder of the TopK family with one more loss, about what the last column of a batch says of each
row: a label, or which path of text it came from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

from jaxtyping import Float, Int
from torch import Tensor

from saesteer.axes import Rows
from saesteer.models import Site
from saesteer.saes import AnyCoder
from saesteer.training.coder import Coder, StepResult
from saesteer.training.sparse import SparseCoder


class ToldCoder(Coder):
    """Any sparse coder; all but the loss is its own, and knows nothing of the last column."""

    def __init__(self, inner: SparseCoder) -> None:
        super().__init__()
        self.inner = inner

    @abstractmethod
    def further(
        self, result: StepResult, rows: Rows, told: Float[Tensor, " n"]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The other loss, weighted, and what to log of it.

        Args:
            result: the coder's own.
            told: the last column.
        """

    def loss(self, batch: Rows, dead: Int[Tensor, " n_dead"] | None) -> StepResult:
        """The coder's own loss and the other."""
        rows, told = batch[:, :-1], batch[:, -1].float()
        result = self.inner.loss(rows, dead)
        loss, extra = self.further(result, rows, told)
        return replace(result, loss=result.loss + loss, extra={**result.extra, **extra})

    def initialise(self, sample: Rows) -> None:
        """As the coder itself."""
        self.inner.initialise(sample[:, :-1])

    def before_update(self) -> None:
        """As the coder itself."""
        self.inner.before_update()

    def after_update(self, result: StepResult) -> None:
        """As the coder itself."""
        self.inner.after_update(result)

    def figures(self) -> dict[str, float]:
        """As the coder itself."""
        return self.inner.figures()

    def raw(self, recon: Rows) -> Rows:
        """As the coder itself."""
        return self.inner.raw(recon)

    def to_sae(self, sites: Sequence[Site], model_name: str) -> AnyCoder:
        """As the coder itself: what ships is an SAE like any other."""
        return self.inner.to_sae(sites, model_name)
