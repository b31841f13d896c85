"""The sparse products of a TopK-family step as Triton kernels, for CUDA.

Same meaning and same fixed order of summing as the plain ones in `kernels`, so bits repeat from run
to run. Read `kernels` first; nothing else imports this file.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

_SUMS: Any = (16, 256)
_DOTS: Any = (16, 128)
_GRADIENTS: Any = (8, 256)
"""Entries and columns that one program reads at once; the fastest of six on an H100."""


@triton.jit
def _sums(
    weight, index, starts, scale, out, n, n_bags, width,
    entries: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    bag = tl.program_id(0)
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    within = column < width
    first = tl.load(starts + bag)
    behind = tl.load(starts + bag + 1, mask=bag + 1 < n_bags, other=n)
    total = tl.zeros([columns], dtype=tl.float32)
    for base in range(first, behind, entries):
        entry = base + tl.arange(0, entries)
        real = entry < behind
        row = tl.load(index + entry, mask=real, other=0)
        share = tl.load(scale + entry, mask=real, other=0.0)
        place = row[:, None] * width + column[None, :]
        tile = tl.load(weight + place, mask=real[:, None] & within[None, :], other=0.0)
        total += tl.sum(tile * share[:, None], axis=0)
    tl.store(out + bag.to(tl.int64) * width + column, total, mask=within)


@triton.jit
def _dots(
    left, right, bags, features, out, n, width,
    entries: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    entry = tl.program_id(0).to(tl.int64) * entries + tl.arange(0, entries)
    real = entry < n
    bag = tl.load(bags + entry, mask=real, other=0)
    feature = tl.load(features + entry, mask=real, other=0)
    total = tl.zeros([entries], dtype=tl.float32)
    for base in range(0, width, columns):
        column = base + tl.arange(0, columns)
        mask = real[:, None] & (column < width)[None, :]
        a = tl.load(left + bag[:, None] * width + column[None, :], mask=mask, other=0.0)
        b = tl.load(right + feature[:, None] * width + column[None, :], mask=mask, other=0.0)
        total += tl.sum(a * b, axis=1)
    tl.store(out + entry, total, mask=real)


@triton.jit
def _gradients(
    inputs, grad, rows, bags, by_input, by_grad, edges, w_enc, w_dec, b_enc, d_in, d_out,
    entries: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    feature = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    reads, writes = column < d_in, column < d_out
    first = tl.load(edges + feature)
    behind = tl.load(edges + feature + 1)
    encoder = tl.zeros([columns], dtype=tl.float32)
    decoder = tl.zeros([columns], dtype=tl.float32)
    bias = tl.zeros([entries], dtype=tl.float32)
    for base in range(first, behind, entries):
        entry = base + tl.arange(0, entries)
        real = entry < behind
        row = tl.load(rows + entry, mask=real, other=0)
        bag = tl.load(bags + entry, mask=real, other=0)
        a = tl.load(by_input + entry, mask=real, other=0.0)
        b = tl.load(by_grad + entry, mask=real, other=0.0)
        x = tl.load(
            inputs + row[:, None] * d_in + column[None, :],
            mask=real[:, None] & reads[None, :], other=0.0,
        )  # fmt: skip
        g = tl.load(
            grad + bag[:, None] * d_out + column[None, :],
            mask=real[:, None] & writes[None, :], other=0.0,
        )  # fmt: skip
        encoder += tl.sum(x * a[:, None], axis=0)
        decoder += tl.sum(g * b[:, None], axis=0)
        bias += a
    tl.store(w_enc + feature * d_in + column, encoder, mask=reads)
    tl.store(w_dec + feature * d_out + column, decoder, mask=writes)
    if tl.program_id(1) == 0:
        tl.store(b_enc + feature, tl.sum(bias, axis=0))


@triton.jit
def _drop_along(grad, weight, width, columns: tl.constexpr):
    column = tl.arange(0, columns)
    place = tl.program_id(0).to(tl.int64) * width + column
    g = tl.load(grad + place, mask=column < width, other=0.0)
    w = tl.load(weight + place, mask=column < width, other=0.0)
    tl.store(grad + place, g - tl.sum(g * w, axis=0) * w, mask=column < width)


@triton.jit
def _to_unit(weight, width, tiny, columns: tl.constexpr):
    column = tl.arange(0, columns)
    place = tl.program_id(0).to(tl.int64) * width + column
    w = tl.load(weight + place, mask=column < width, other=0.0)
    norm = tl.sqrt_rn(tl.sum(w * w, axis=0))
    tl.store(weight + place, w / tl.maximum(norm, tiny), mask=column < width)


def bag_sums(
    weight: Float[Tensor, "rows width"],
    index: Int[Tensor, " n"],
    starts: Int[Tensor, " n_bags"],
    scale: Float[Tensor, " n"],
) -> Float[Tensor, "n_bags width"]:
    """`kernels.bag_sums`: one program a bag and 256 columns."""
    width = weight.shape[1]
    out = weight.new_empty(len(starts), width)
    grid = (len(starts), triton.cdiv(width, _SUMS[1]))
    _sums[grid](weight, index, starts, scale, out, len(index), len(starts), width, *_SUMS)
    return out


def bag_dots(
    left: Float[Tensor, "n_bags width"],
    right: Float[Tensor, "rows width"],
    bags: Int[Tensor, " n"],
    features: Int[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """`kernels.bag_dots`: one program for 16 entries."""
    out = torch.empty(len(bags), dtype=torch.float32, device=left.device)
    grid = (triton.cdiv(len(bags), _DOTS[0]),)
    _dots[grid](left, right, bags, features, out, len(bags), left.shape[1], *_DOTS)
    return out


def gradients(
    inputs: Float[Tensor, "rows d_in"],
    grad: Float[Tensor, "n_bags d_out"],
    rows: Int[Tensor, " n"],
    bags: Int[Tensor, " n"],
    by_input: Float[Tensor, " n"],
    by_grad: Float[Tensor, " n"],
    edges: Int[Tensor, " n_edges"],
) -> tuple[Float[Tensor, "d_sae d_in"], Float[Tensor, "d_sae d_out"], Float[Tensor, " d_sae"]]:
    """`kernels.gradients`: both weights' gradients in one walk over a feature's entries."""
    n_features, d_in, d_out = len(edges) - 1, inputs.shape[1], grad.shape[1]
    w_enc, w_dec = inputs.new_empty(n_features, d_in), inputs.new_empty(n_features, d_out)
    b_enc = inputs.new_empty(n_features)
    grid = (n_features, triton.cdiv(max(d_in, d_out), _GRADIENTS[1]))
    scales = (by_input, by_grad)
    outs = (w_enc, w_dec, b_enc)
    _gradients[grid](inputs, grad, rows, bags, *scales, edges, *outs, d_in, d_out, *_GRADIENTS)
    return w_enc, w_dec, b_enc


def drop_along_(grad: Float[Tensor, "n width"], weight: Float[Tensor, "n width"]) -> None:
    """`kernels.drop_along_`: one program a row."""
    width = weight.shape[1]
    columns: Any = triton.next_power_of_2(width)
    _drop_along[(len(weight),)](grad, weight, width, columns)


def to_unit_(weight: Float[Tensor, "n width"]) -> None:
    """`kernels.to_unit_`: one program a row."""
    width, tiny = weight.shape[1], torch.finfo(weight.dtype).tiny
    columns: Any = triton.next_power_of_2(width)
    _to_unit[(len(weight),)](weight, width, tiny, columns)
