"""The sparse products of a TopK-family step, each summed in a fixed order, so that bits repeat.

A batch's survivors are a list of entries (bag, feature), bags in order. A bag is one row's sum, or
one level of one row's sum where reconstructions are nested: nothing else tells Matryoshka from
BatchTopK here. On two threads the backward of plain indexing differs from run to run; bags do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Active:
    """The latents that survive a batch: n entries of (bag, feature), ordered by bag.

    Attributes:
        bags: bag of each entry, row * levels + level.
        starts: where each bag's entries begin, `[rows * levels]`.
        levels: bags per row.
    """

    bags: Int[Tensor, " n"]
    features: Int[Tensor, " n"]
    starts: Int[Tensor, " n_bags"]
    levels: int = 1

    @classmethod
    def of(cls, bags: Tensor, features: Tensor, n_rows: int, levels: int = 1) -> Active:
        """Entries that are already in the order of their bags."""
        starts = torch.searchsorted(bags, torch.arange(n_rows * levels, device=bags.device))
        return cls(bags, features, starts, levels)

    @classmethod
    def joined(cls, blocks: Sequence[Active]) -> Active:
        """A batch from its blocks of rows, in their order."""
        bags, starts, n_bags, n = [], [], 0, 0
        for block in blocks:
            bags.append(block.bags + n_bags)
            starts.append(block.starts + n)
            n_bags, n = n_bags + len(block.starts), n + len(block.bags)
        features = torch.cat([block.features for block in blocks])
        return cls(torch.cat(bags), features, torch.cat(starts), blocks[0].levels)

    @property
    def rows(self) -> Int[Tensor, " n"]:
        """Row of each entry."""
        return self.bags if self.levels == 1 else self.bags // self.levels

    def nested(self, edges: Int[Tensor, " levels"]) -> Active:
        """The same entries in bags by level; `edges` are the widths of the nested prefixes.

        Entries must be ordered by feature within their rows.
        """
        levels = len(edges)
        level = torch.bucketize(self.features, edges, right=True)
        return Active.of(self.rows * levels + level, self.features, len(self.starts), levels)


@cache
def triton_kernels() -> ModuleType | None:
    """The same products as Triton kernels; None where Triton is not installed."""
    try:
        from saesteer.training import triton_kernels
    except ImportError:
        return None
    return triton_kernels


def bag_sums(weight: Tensor, index: Tensor, starts: Tensor, scale: Tensor) -> Tensor:
    """Sums of scaled rows of `weight`: one output row per start."""
    if weight.is_cuda and (fast := triton_kernels()):
        return fast.bag_sums(weight, index, starts, scale)
    return F.embedding_bag(index, weight, starts, mode="sum", per_sample_weights=scale)


def bag_dots(left: Tensor, right: Tensor, active: Active) -> Tensor:
    """`left[bag] · right[feature]` for every entry, in fp32, without materialising rows.

    On a CPU it is the kernel by which autograd finds the gradient of a bag's per-sample weights.
    """
    if left.is_cuda and (fast := triton_kernels()):
        return fast.bag_dots(left, right, active.bags, active.features)
    if left.device.type != "cpu":
        return (left[active.bags] * right[active.features]).sum(-1)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left, right, active.features, active.starts, active.bags, 0
    )


def gradients(
    inputs: Tensor,
    grad: Tensor,
    rows: Tensor,
    bags: Tensor,
    by_input: Tensor,
    by_grad: Tensor,
    edges: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of encoder rows, decoder rows and encoder biases from entries ordered by feature.

    Args:
        inputs: what the encoder multiplied, `[rows, d_in]`.
        grad: gradient of every bag's sum, `[n_bags, d_out]`.
        rows, bags: of each entry.
        by_input, by_grad: weight of the entry's row of `inputs` and of `grad`.
        edges: where each feature's entries begin, and the end, `[d_sae + 1]`.
    """
    if inputs.is_cuda and (fast := triton_kernels()):
        return fast.gradients(inputs, grad, rows, bags, by_input, by_grad, edges)
    starts = edges[:-1]
    return (
        bag_sums(inputs, rows, starts, by_input),
        bag_sums(grad, bags, starts, by_grad),
        torch.segment_reduce(by_input, "sum", offsets=edges),
    )


def drop_along_(grad: Tensor, weight: Tensor) -> None:
    """Take from each row of `grad` what lies along the unit row of `weight`."""
    if grad.is_cuda and (fast := triton_kernels()):
        return fast.drop_along_(grad, weight)
    each = torch.arange(len(grad), device=grad.device)
    along = bag_dots(grad, weight, Active(each, each, each))  # einsum takes four times as long
    grad.addcmul_(along[:, None], weight, value=-1.0)
    return None


def to_unit_(weight: Tensor) -> None:
    """Bring rows to norm 1."""
    if weight.is_cuda and (fast := triton_kernels()):
        return fast.to_unit_(weight)
    norms = weight.norm(dim=-1, keepdim=True)
    weight.div_(norms.clamp_(min=torch.finfo(norms.dtype).tiny))
    return None


class SparseSums(torch.autograd.Function):
    """`sum_j value_j w_dec_j` of every bag, `[n_bags, d_out]`, and the values, both with gradients.

    `values` must be what the encoder gives for `active`, cut entries as 0: a cut entry has no
    gradient. `offset` is what the encoder subtracts from its input, or None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "rows d_in"],
        w_enc: Float[Tensor, "d_sae d_in"],
        b_enc: Float[Tensor, " d_sae"],  # noqa: ARG004 (backward returns its gradient)
        w_dec: Float[Tensor, "d_sae d_out"],
        offset: Float[Tensor, " d_in"] | None,
        active: Active,
        values: Float[Tensor, " n"],
    ) -> tuple[Float[Tensor, "n_bags d_out"], Float[Tensor, " n"]]:
        """Sums of decoder rows."""
        ctx.save_for_backward(x, w_enc, w_dec, offset, values)
        ctx.set_materialize_grads(False)
        ctx.active = active
        return bag_sums(w_dec, active.features, active.starts, values), values.view_as(values)

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad: Tensor, own: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Gradients of everything but `x`, which comes from a frozen model.

        Args:
            grad: of the sums.
            own: of the values themselves, where a loss asks how large they are.
        """
        x, w_enc, w_dec, offset, values = ctx.saved_tensors
        active: Active = ctx.active
        grad = grad.contiguous()
        grad_values = bag_dots(grad, w_dec, active)
        if own is not None:
            grad_values = grad_values + own
        grad_values = grad_values * (values != 0)
        features, by_feature = torch.sort(active.features, stable=True)
        edges = torch.searchsorted(features, torch.arange(len(w_enc) + 1, device=x.device))
        centred = x if offset is None else x - offset
        grad_w_enc, grad_w_dec, grad_b_enc = gradients(
            centred,
            grad,
            active.rows[by_feature],
            active.bags[by_feature],
            grad_values[by_feature],
            values[by_feature],
            edges,
        )
        # d loss / d offset sums over entries first, so that it is one matrix-vector product
        grad_offset = None if offset is None else -(grad_b_enc @ w_enc)
        return None, grad_w_enc, grad_b_enc, grad_w_dec, grad_offset, None, None
