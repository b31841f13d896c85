"""The linear layer through which an MLP or attention writes to the residual stream, by its weight.

Methods that edit weights need its name, what it reads, and how a change of it would act.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, final

from jaxtyping import Float
from torch import Tensor, nn

from saesteer.errors import PlanError
from saesteer.models import Model
from saesteer.models.layout import is_transposed, matrix_of, unwrap
from saesteer.models.sites import Site
from saesteer.steer import WeightEdit

Part = Literal["mlp", "attention"]
"""Whose output projection: `neurons` or `head_out` are what it reads."""


@final
@dataclass(frozen=True, eq=False)
class Projection:
    """One layer's output projection, y = W x.

    Attributes:
        reads: the site of its input x.
    """

    reads: Site
    module: nn.Module
    parameter: str

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        """W."""
        return matrix_of(self.module)

    def change(
        self, left: Float[Tensor, "out r"], right: Float[Tensor, "r in"] | None = None
    ) -> WeightEdit:
        """W + left @ right, or W + left where left is whole, as an act of a plan."""
        if is_transposed(self.module):
            left, right = (left.T, None) if right is None else (right.T, left.T)
        left = left.detach().cpu().contiguous()
        return WeightEdit(self.parameter, left, None if right is None else right.detach().cpu())

    @contextmanager
    def adding(self, fn: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
        """Within it, y becomes fn(x, y), with gradients; x and y are `[batch, pos, ...]`."""

        def hook(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return fn(args[0], output)

        handle = self.module.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


def projection(model: Model, layer: int, part: Part) -> Projection:
    """The output projection of a layer's MLP or attention.

    Raises:
        SiteError: no such layer, or fused experts, which have none of their own.
        PlanError: its weight is kept away from the device between passes.
    """
    reads = model.check_site(Site(layer, "neurons" if part == "mlp" else "head_out"))
    module = model.layout.point(reads).module
    weight: Any = unwrap(module).weight
    if weight.is_meta:
        raise PlanError(
            f"layer {layer}'s {part} output matrix is offloaded, so it can't be edited; give that "
            "layer a device in device_map."
        )
    names = (n for n, p in model.hf.named_parameters(remove_duplicate=False) if p is weight)
    return Projection(reads, module, next(names).replace("._original_component", ""))
