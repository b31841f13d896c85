"""Parameters that hold other values for a while, beside the tensors that they had before.

What is attached may go in any order: each parameter is worked out anew from its original and from
what is still there, in fp32, rounded once. The original tensor itself goes back in at the end, so
it is the same to the last bit. Every thread that uses the model sees the change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from saesteer.errors import DimensionError, PlanError

_ORIGINAL = "_saesteer_original"
_SPLIT = ("qkv", "gate_up")
"""What transformer-lens calls fused weights that its bridges split into copies when booted."""


@runtime_checkable
class Change(Protocol):
    """What is added to one parameter; frozen dataclasses fit."""

    @property
    def parameter(self) -> str:
        """Its name, as in `hf.named_parameters()`."""
        ...

    @property
    def untie(self) -> bool:
        """Whether this use of a shared parameter is changed alone."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the parameter that it is made for."""
        ...

    def added(self, device: torch.device) -> Tensor:
        """ΔW of the parameter's shape, in fp32."""
        ...


def original_of(parameter: Tensor | None) -> Any:
    """The tensor that a parameter holds when nothing is attached."""
    return getattr(parameter, _ORIGINAL, parameter)


@final
class _Slots:
    """Where a module's parameters lie, by name.

    A bridge wraps the modules of its model and reaches one of them by several paths: those are
    names of one slot. A parameter that lies in two slots is tied.
    """

    def __init__(self, hf: nn.Module) -> None:
        self._by_name: dict[str, tuple[nn.Module, str]] = {}
        for path, module in hf.named_modules(remove_duplicate=False):
            inner = module._modules.get("_original_component") or module
            for leaf, parameter in inner._parameters.items():
                if parameter is not None:
                    name = f"{path}.{leaf}".replace("._original_component", "")
                    self._by_name.setdefault(name.lstrip("."), (inner, leaf))

    def find(self, name: str) -> tuple[nn.Module, str, nn.Parameter]:
        """The module that holds a parameter, its name there, and the parameter.

        Raises:
            PlanError: there is none of this name.
        """
        if name not in self._by_name:
            raise PlanError(
                f"{name} is no parameter of this model; "
                "see the names in model.hf.named_parameters()."
            )
        module, leaf = self._by_name[name]
        found: Any = module._parameters[leaf]
        return module, leaf, found

    def is_copied(self, name: str) -> bool:
        """Whether a bridge computes with copies of this weight's parts, so that it has no say."""
        module, leaf, _ = self.find(name)
        paths = (
            n.split(".") for n, (at, its) in self._by_name.items() if at is module and its == leaf
        )
        return any(path[-2] in _SPLIT for path in paths if len(path) > 1)

    def tied(self, name: str) -> list[str]:
        """One name for each other slot in which the same parameter lies."""
        module, leaf, parameter = self.find(name)
        mine, found = (id(module), leaf), {}
        for other, (at, its_leaf) in self._by_name.items():
            same = original_of(at._parameters[its_leaf]) is original_of(parameter)
            if same and (id(at), its_leaf) != mine:
                found.setdefault((id(at), its_leaf), other)
        return list(found.values())


@final
@dataclass(eq=False)
class _Held:
    """One parameter: where it lies, what lay there before, and what is added, in order."""

    module: nn.Module
    leaf: str
    before: nn.Parameter
    parameter: nn.Parameter
    original: Tensor
    changes: list[tuple[object, Change, float]] = field(default_factory=list)
    shown: Tensor | None = None

    @property
    def stands_for(self) -> Tensor:
        """What identifies the weight while it is changed; a tied one is still the same weight."""
        return self.original if self.parameter is self.before else original_of(self.before)

    @property
    def changed(self) -> Tensor:
        """W + Σ s ΔW, rounded once to the parameter's dtype."""
        total = self.original.to(torch.promote_types(self.original.dtype, torch.float32))
        for _, change, strength in self.changes:
            total = total + strength * change.added(total.device)
        return total.to(self.original.dtype)


@final
class Weights:
    """The changed parameters of one module."""

    def __init__(self, hf: nn.Module) -> None:
        self._hf = hf
        self._held: dict[str, _Held] = {}
        self._paused = 0

    def add(self, owner: object, changes: Sequence[tuple[Change, float]]) -> None:
        """Put changes at their strengths on; all of them or, on an error, none.

        Raises:
            DimensionError, PlanError: as `check_change`, or a weight would not be finite.
        """
        for change, _ in changes:
            check_change(self._hf, change)
        held = {n: replace(h, changes=list(h.changes)) for n, h in self._held.items()}
        for change, strength in changes:
            if change.parameter not in held:
                held[change.parameter] = _hold(self._hf, change)
            held[change.parameter].changes.append((owner, change, strength))
        names = dict.fromkeys(change.parameter for change, _ in changes)
        values = {name: held[name].changed for name in names}
        for name, value in values.items():
            if not bool(torch.isfinite(value).all()):
                raise PlanError(f"{name} would hold NaN or infinity; lower the plan's strength.")
        self._held = held
        self._show(values)

    def drop(self, owner: object) -> None:
        """Take one owner's changes off; a parameter without any is what it was."""
        values: dict[str, Tensor] = {}
        for name, held in list(self._held.items()):
            kept = [entry for entry in held.changes if entry[0] is not owner]
            if len(kept) == len(held.changes):
                continue
            held.changes[:] = kept
            if kept:
                values[name] = held.changed
            else:
                _release(self._held.pop(name))
        self._show(values)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within it, every parameter is what it was."""
        self._paused += 1
        for held in self._held.values():
            held.parameter.data = held.original
        try:
            yield
        finally:
            self._paused -= 1
            self._place()

    def _show(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._held[name].shown = value
        self._place()

    def _place(self) -> None:
        if self._paused:
            return
        for held in self._held.values():
            held.module._parameters[held.leaf] = held.parameter
            setattr(held.parameter, _ORIGINAL, held.stands_for)
            if held.shown is not None:
                held.parameter.data = held.shown


def check_change(hf: nn.Module, change: Change) -> None:
    """Make sure that a module has a parameter that a change fits.

    Raises:
        PlanError: no such parameter, one that is shared, or one without values to add to.
        DimensionError: another shape.
    """
    slots = _Slots(hf)
    others = slots.tied(change.parameter)
    if slots.is_copied(change.parameter):
        raise PlanError(
            f"{change.parameter}: the bridge around this model computes with copies that it made "
            "of this fused weight; edit the Hugging Face model before it is booted."
        )
    if others and not change.untie:
        raise PlanError(
            f"{change.parameter} is tied to {', '.join(others)}, which would change with it; "
            "set untie=True to change this use of it alone."
        )
    parameter = original_of(slots.find(change.parameter)[2])
    if not parameter.is_floating_point() or parameter.is_meta:
        where = "on no device" if parameter.is_meta else f"of type {parameter.dtype}"
        raise PlanError(
            f"{change.parameter} is {where}, so nothing can be added to it; "
            "load the model unquantised and without offloading."
        )
    if tuple(parameter.shape) != change.shape:
        raise DimensionError(
            f"{change.parameter}: the change has shape {list(change.shape)}, "
            f"expected {list(parameter.shape)}; use one that was made for this model."
        )


def relative_size(hf: nn.Module, changes: Sequence[tuple[Change, float]]) -> float | None:
    """‖Σ s ΔW‖ / ‖W‖ (Frobenius) of changes of one parameter; None for one that is all zeros.

    Raises:
        PlanError, DimensionError: as `check_change`.
    """
    for change, _ in changes:
        check_change(hf, change)
    weight = original_of(_Slots(hf).find(changes[0][0].parameter)[2]).detach().float()
    added = sum(strength * change.added(weight.device) for change, strength in changes)
    size = float(weight.norm())
    return float(torch.as_tensor(added).norm()) / size if size else None


def _hold(hf: nn.Module, change: Change) -> _Held:
    """Nothing is changed yet; a tied use gets a parameter of its own."""
    slots = _Slots(hf)
    module, leaf, before = slots.find(change.parameter)
    parameter = before
    if slots.tied(change.parameter):
        parameter = nn.Parameter(before.data, requires_grad=before.requires_grad)
    return _Held(module, leaf, before, parameter, before.data)


def _release(held: _Held) -> None:
    held.parameter.data = held.original
    if hasattr(held.parameter, _ORIGINAL):
        delattr(held.parameter, _ORIGINAL)
    held.module._parameters[held.leaf] = held.before
