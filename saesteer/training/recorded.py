"""A step recorded once as a CUDA graph: at a million tokens a second Python can't launch it."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch

from saesteer.axes import Rows
from saesteer.training.coder import StepResult


@final
class RecordedStep:
    """`run` on batches of one shape; what it returns is written over by the next call.

    `run` must have been called before, so that what it keeps exists, and must not wait for the
    device.
    """

    def __init__(self, run: Callable[[Rows], StepResult], example: Rows) -> None:
        self._batch = example.clone()
        self._graph = torch.cuda.CUDAGraph()
        # a thread that reads ahead may go on with its own work on the device
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = run(self._batch)

    def fits(self, batch: Rows) -> bool:
        """Whether `batch` has the recorded shape and dtype."""
        return batch.shape == self._batch.shape and batch.dtype == self._batch.dtype

    def __call__(self, batch: Rows) -> StepResult:
        """One step."""
        self._batch.copy_(batch)
        self._graph.replay()
        return self._result
