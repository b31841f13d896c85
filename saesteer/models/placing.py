"""Devices and dtypes as users write them: read, or refused in a line that says what to write."""

from __future__ import annotations

import torch

from saesteer.errors import SaesteerError

FLOATS = ("float32", "bfloat16", "float16")


def as_dtype(
    dtype: torch.dtype | str, error: type[SaesteerError], also: tuple[str, ...] = ()
) -> torch.dtype:
    """A dtype of floats, by itself or by its name; `also` are other words that the caller takes.

    Raises:
        SaesteerError: of the kind `error`: it is none.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        *known, last = (*FLOATS, *also)
        raise error(f"{dtype!r} is not a dtype of floats; use {', '.join(known)} or {last}.")
    return found


def as_device(device: torch.device | str, error: type[SaesteerError]) -> torch.device:
    """A device that is there.

    Raises:
        SaesteerError: of the kind `error`: there is no such device.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise error(f"{device!r} is not a device; use cpu, cuda, cuda:1 or mps.") from None
    try:
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as caught:  # torch built without CUDA asserts
        reason = (str(caught).strip() or type(caught).__name__).splitlines()[0].rstrip(".")
        raise error(f"there is no device {str(found)!r} here ({reason}); use cpu.") from caught
    return found
