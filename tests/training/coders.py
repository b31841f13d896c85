"""Coders in a state that training leaves them in, rather than as they start."""

from __future__ import annotations

import torch

from saesteer.training.sparse import SparseCoder


def moved(coder: SparseCoder) -> SparseCoder:
    """The coder away from its starting point: untied, with biases and a scale."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        coder.input_scale.fill_(0.2)
    return coder
