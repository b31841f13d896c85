"""Shuffled activations from a model that runs no further than it must.

Tokens go in as packed rows, activations come out in batches, mixed over many rows. Outlier tokens
(massive activations) and special tokens are left out. The state is exact: restored, the stream
gives the same batches, bit for bit on one machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saesteer.axes import Rows
from saesteer.data.ring import ShuffleRing
from saesteer.data.tokens import TokenRows, TokenStream
from saesteer.errors import DataError
from saesteer.metrics.outliers import outlier_tokens
from saesteer.models import Model, Site, install

_COUNTS = ("n_tokens", "n_outliers", "n_read")


class _Reached(Exception):
    """Ends the forward pass at the site; never leaves this file."""


@dataclass(eq=False)
class ActivationStream:
    """Batches `[batch_size, d_model]` of one site's activations.

    Attributes:
        rows_per_pass: packed rows in one forward pass.
        n_tokens: tokens drawn so far (the consumer's count; with reuse, more than were read).
        n_read: tokens that the model has read, outliers included.
        n_outliers: tokens left out so far.
    """

    model: Model
    site: Site
    tokens: TokenStream
    ring: ShuffleRing
    rows_per_pass: int = 8
    n_tokens: int = 0
    n_outliers: int = 0
    n_read: int = 0

    def next_batch(self) -> Rows | None:
        """The next mixed batch; None when the text has ended."""
        while self.ring.wants:
            if self._spare is None or not len(self._spare):
                rows = self.tokens.next_rows(self.rows_per_pass)
                if rows is None:
                    return None
                self._spare = self.activations(rows)
            self._spare = self.ring.add(self._spare)
        self.n_tokens += self.ring.batch_size
        return self.ring.draw()

    def __post_init__(self) -> None:
        self._spare: Tensor | None = None

    @torch.no_grad()
    def activations(self, rows: TokenRows) -> Rows:
        """Activations of packed rows at the site, outliers and special tokens left out.

        Raises:
            DataError: the model gives NaN or infinity on this text.
        """
        seen: list[Tensor] = []

        def reach(resid: Tensor) -> None:
            seen.append(resid)
            raise _Reached

        handle = install(self.model.layout.point(self.site), reach)
        try:
            self.model.layout.base(
                input_ids=rows.input_ids.to(self.model.device),
                position_ids=rows.position_ids.to(self.model.device),
                use_cache=False,
            )
        except _Reached:
            pass
        finally:
            handle.remove()
        return self._keep(seen[0], rows)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The stream's place: what fits JSON, and tensors."""
        tensors = {f"ring.{name}": value for name, value in self.ring.state().items()}
        if self._spare is not None and len(self._spare):
            tensors["spare"] = self._spare
        counts = {name: getattr(self, name) for name in _COUNTS}
        return json.loads(json.dumps({"tokens": self.tokens.state(), **counts})), tensors

    def restore(self, place: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Continue from `state()` of a stream with the same settings."""
        self.tokens.restore(place["tokens"])
        for name in _COUNTS:
            setattr(self, name, place[name])
        ring = {n.removeprefix("ring."): t for n, t in tensors.items() if n.startswith("ring.")}
        self.ring.restore(ring)
        self._spare = tensors.get("spare")

    def _keep(self, resid: Tensor, rows: TokenRows) -> Rows:
        special = torch.isin(rows.input_ids, self.model.special_ids).to(resid.device)
        outlier = outlier_tokens(resid, ~special)
        finite = resid.isfinite().all()
        if not bool(finite):
            raise DataError(
                f"{self.model.name} gives NaN or infinity at {self.site}; "
                "check its weights, or use a wider dtype than float16."
            )
        self.n_outliers += int(outlier.sum())
        self.n_read += special.numel()
        return resid[~(special | outlier)]
