"""Hooks that see the activation itself, whatever a module takes or returns.

Layers return a tensor in most architectures and a tuple in some; inputs come by position or by
keyword. Everything above this file deals in plain `[batch, pos, width]` tensors.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, final, runtime_checkable

from torch import Tensor, nn

Edit = Callable[[Tensor], Tensor | None]


@runtime_checkable
class Handle(Protocol):
    """What takes a hook out again."""

    def remove(self) -> None:
        """Take it out."""
        ...


@dataclass(frozen=True)
class HookPoint:
    """A module and the side of it on which a site's activation passes.

    `columns` narrows the last axis to one attention head's share. `rows_of` is for a module that
    sees rows and positions as one axis: the module around it, whose input still has both.
    """

    module: nn.Module
    side: Literal["in", "out"]
    columns: tuple[int, int] | None = None
    rows_of: nn.Module | None = None

    @property
    def is_output(self) -> bool:
        """Whether it is all that a module returns."""
        return self.side == "out" and self.columns is None and self.rows_of is None


def install(point: HookPoint, fn: Edit, *, prepend: bool = False) -> Handle:
    """Call `fn` with the site's activation at each forward pass; what it returns replaces it.

    Args:
        fn: gets `[batch, pos, width]`; returns the same shape, or None to leave it untouched.
        prepend: run before hooks that are already there.
    """
    if point.rows_of is not None:
        return _Unflattened(point, point.rows_of, fn, prepend)
    edit = fn if point.columns is None else _on_columns(fn, point.columns)
    if point.side == "in":
        return point.module.register_forward_pre_hook(
            _input_hook(edit), with_kwargs=True, prepend=prepend
        )
    return point.module.register_forward_hook(output_hook(edit), prepend=prepend)


def remove(handles: Sequence[Handle]) -> None:
    """Take out these hooks and no others."""
    for handle in handles:
        handle.remove()


@contextmanager
def installed(hooks: Iterable[tuple[HookPoint, Edit]]) -> Iterator[None]:
    """`install` for the extent of a `with`; nothing stays behind, whatever fails in it."""
    with ExitStack() as stack:
        for point, fn in hooks:
            stack.callback(install(point, fn).remove)
        yield


@contextmanager
def run_as(modules: Sequence[nn.Module], calls: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Calls in place of these modules' `forward` for the extent of a `with`, their hooks around
    them; their own, or a wrapper of it, comes back."""
    saved = [vars(module).get("forward") for module in modules]
    for module, call in zip(modules, calls, strict=True):
        vars(module)["forward"] = call
    try:
        yield
    finally:
        for module, wrapper in zip(modules, saved, strict=True):
            vars(module).pop("forward")
            if wrapper is not None:
                vars(module)["forward"] = wrapper


@final
class _Unflattened:
    """A hook at a module's input that gives rows and positions back their axes, in each thread."""

    def __init__(self, point: HookPoint, around: nn.Module, fn: Edit, prepend: bool) -> None:
        self._fn, self._local = fn, threading.local()
        see, edit = _input_hook(self._see), _input_hook(self._edit)
        self._handles = [
            around.register_forward_pre_hook(see, with_kwargs=True, prepend=prepend),
            point.module.register_forward_pre_hook(edit, with_kwargs=True, prepend=prepend),
        ]

    def remove(self) -> None:
        """Take both hooks out."""
        for handle in self._handles:
            handle.remove()

    def _see(self, whole: Tensor) -> None:
        self._local.rows = whole.shape[:-1]

    def _edit(self, flat: Tensor) -> Tensor | None:
        new = self._fn(flat.view(*self._local.rows, flat.shape[-1]))
        return None if new is None else new.view(flat.shape)


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


def output_hook(edit: Edit) -> Callable[..., Any]:
    """A forward hook that edits what a module returns, or the first of what it returns."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            new = edit(output[0])
            return None if new is None else (new, *output[1:])
        return edit(output)

    return hook
