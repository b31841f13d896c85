"""What identifies a model: its weights, whatever it is called and however it was loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from saesteer.models.weights import original_of


def weights_fingerprint(module: nn.Module) -> str:
    """sha256 over the weights rounded to bfloat16, 16 hex digits.

    Rounded, so that one model loaded in float32 and in bfloat16 is one model; without names and
    without vectors of zeros, so that a bridge around it, which adds such biases, is too. Weights
    that a plan has changed count as they were.
    """
    originals = (original_of(p) for p in _own_parameters(module))
    own = {id(p): p for p in originals if p.ndim != 1 or bool(p.any())}
    parts = sorted(_digest(parameter) for parameter in own.values())
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _own_parameters(module: nn.Module) -> Iterator[Tensor]:
    """All parameters, of a bridge's component only those of the module that it wraps."""
    wrapped = module._modules.get("_original_component")
    if wrapped is not None:
        yield from _own_parameters(wrapped)
        return
    yield from (p for p in module._parameters.values() if p is not None)
    for child in module.children():
        yield from _own_parameters(child)


def _digest(parameter: Tensor) -> bytes:
    flat = parameter.detach().to("cpu", torch.bfloat16).contiguous()
    shape = str(tuple(flat.shape)).encode()
    return hashlib.sha256(shape + flat.view(torch.uint8).numpy().tobytes()).digest()
