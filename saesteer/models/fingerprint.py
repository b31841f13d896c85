"""What identifies a model: its weights, whatever it is called and however it was loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from saesteer.models.offload import weight_of
from saesteer.models.weights import original_of


def weights_fingerprint(module: nn.Module) -> str:
    """sha256 over the weights rounded to bfloat16, 16 hex digits.

    Rounded, so that one model loaded in float32 and in bfloat16 is one model; without names and
    without vectors of zeros, so that a bridge around it, which adds such biases, is too. Weights
    that a plan has changed count as they were.
    """
    own = {id(original): (original, place) for original, place in _own_parameters(module)}
    parts = sorted(_digests(own.values()))
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _own_parameters(module: nn.Module) -> Iterator[tuple[Tensor, tuple[nn.Module, str]]]:
    """All parameters and where they lie, of a bridge's component only the wrapped module's."""
    wrapped = module._modules.get("_original_component")
    if wrapped is not None:
        yield from _own_parameters(wrapped)
        return
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield original_of(parameter), (module, name)
    for child in module.children():
        yield from _own_parameters(child)


def _digests(own: Iterable[tuple[Tensor, tuple[nn.Module, str]]]) -> Iterator[bytes]:
    """One at a time, so that weights which have to be fetched are never all in memory.

    A tied matrix that is away stands in two places as two tensors; equal values make it one again.
    """
    seen: set[bytes] = set()
    for original, place in sorted(own, key=lambda each: each[0].is_meta):
        values = weight_of(*place) if original.is_meta else original
        if values.ndim == 1 and not bool(values.any()):
            continue
        digest = _digest(values)
        if not (original.is_meta and values.ndim > 1 and digest in seen):
            yield digest
        seen.add(digest)


def _digest(parameter: Tensor) -> bytes:
    flat = parameter.detach().to("cpu", torch.bfloat16).contiguous()
    shape = str(tuple(flat.shape)).encode()
    return hashlib.sha256(shape + flat.view(torch.uint8).numpy().tobytes()).digest()
