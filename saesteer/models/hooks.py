"""Hooks that see the activation itself, whatever a module takes or returns.

Layers return a tensor in most architectures and a tuple in some; inputs come by position or by
keyword. Everything above this file deals in plain `[batch, pos, width]` tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Edit = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True)
class HookPoint:
    """A module and the side of it on which a site's activation passes.

    `columns` narrows the last axis to one attention head's share.
    """

    module: nn.Module
    side: Literal["in", "out"]
    columns: tuple[int, int] | None = None


def install(point: HookPoint, fn: Edit, *, prepend: bool = False) -> RemovableHandle:
    """Call `fn` with the site's activation at each forward pass; what it returns replaces it.

    Args:
        fn: gets `[batch, pos, width]`; returns the same shape, or None to leave it untouched.
        prepend: run before hooks that are already there.
    """
    edit = fn if point.columns is None else _on_columns(fn, point.columns)
    if point.side == "in":
        return point.module.register_forward_pre_hook(
            _input_hook(edit), with_kwargs=True, prepend=prepend
        )
    return point.module.register_forward_hook(_output_hook(edit), prepend=prepend)


def remove(handles: Sequence[RemovableHandle]) -> None:
    """Take out these hooks and no others."""
    for handle in handles:
        handle.remove()


def _on_columns(fn: Edit, columns: tuple[int, int]) -> Edit:
    start, stop = columns

    def edit(whole: Tensor) -> Tensor | None:
        new = fn(whole[..., start:stop])
        if new is None:
            return None
        whole = whole.clone()
        whole[..., start:stop] = new
        return whole

    return edit


def _input_hook(edit: Edit) -> Callable[..., Any]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            new = edit(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        new = edit(kwargs["hidden_states"])
        return None if new is None else (args, {**kwargs, "hidden_states": new})

    return hook


def _output_hook(edit: Edit) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            new = edit(output[0])
            return None if new is None else (new, *output[1:])
        return edit(output)

    return hook
