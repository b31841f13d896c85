"""Weights that accelerate keeps on disk or on another device between passes.

With `device_map` such a module's parameters lie on the meta device, without values, and come in for
the module's own forward pass alone. Hooks see activations as ever; whatever reads a weight itself
asks here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from saesteer.errors import ModelError


def weight_of(module: nn.Module, name: str = "weight") -> Tensor:
    """A module's own parameter with its values, without gradients, fetched if it is away.

    Raises:
        ModelError: it has no values anywhere.
    """
    held: Any = module._parameters.get(name, getattr(module, name, None))
    if not held.is_meta:
        return held.detach()
    from accelerate.utils import align_module_device

    with align_module_device(module):
        fetched: Any = module._parameters[name]
        if not fetched.is_meta:
            return fetched.detach()
    raise ModelError(f"{type(module).__name__}.{name} lies on no device, so it can't be read.")


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes: its first parameter's device, or where that is brought to."""
    first = next(module.parameters()).device
    if first.type != "meta":
        return first
    hooks = (getattr(part, "_hf_hook", None) for part in module.modules())
    found = (getattr(hook, "execution_device", None) for hook in hooks)
    device = next((device for device in found if device is not None), first)
    return torch.device(device)
