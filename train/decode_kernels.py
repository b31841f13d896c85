"""One decoding step's attention and draw as Triton kernels, for CUDA.

Same meaning as `attend` and `draw` in `decoding`; read those first. Attention takes the rotary
turn, the cache's new entry and the mixing in one pass, and reads the cache only as far as it is
filled; the draw keeps no table of chances.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from decoding import Llama
from decoding import attend as plain_attend
from decoding import draw as plain_draw
from torch import Tensor

_KEYS: Any = 64
_TOKENS: Any = 4096
"""Past keys, and tokens of the vocabulary, that one program reads at once."""


@triton.jit(do_not_specialize=["position"])
def _attend(
    qkv, keys, values, cos, sin, out, position, length, scale,
    heads: tl.constexpr, groups: tl.constexpr, width: tl.constexpr,
    padded: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    each: tl.constexpr = heads // groups
    at = tl.arange(0, width)
    partner = (at + width // 2) % width
    straight = tl.load(cos + position * width + at)
    across = tl.load(sin + position * width + at) * tl.where(at < width // 2, -1.0, 1.0)
    head = tl.arange(0, padded)[:, None]
    real = head < each
    queries = qkv + row * (heads + 2 * groups) * width + (group * each + head) * width
    key = qkv + (row * (heads + 2 * groups) + heads + group) * width
    query = tl.load(queries + at[None, :], mask=real, other=0.0).to(tl.float32)
    other = tl.load(queries + partner[None, :], mask=real, other=0.0).to(tl.float32)
    query = (query * straight[None, :] + other * across[None, :]) * scale
    mine = tl.load(key + at).to(tl.float32) * straight
    mine += tl.load(key + partner).to(tl.float32) * across
    value = tl.load(key + groups * width + at)
    place = (row * groups + group) * length * width
    tl.store(keys + place + position * width + at, mine)
    tl.store(values + place + position * width + at, value)
    # the newest key comes from here, not from the cache, and opens the running softmax
    top = tl.sum(query * mine[None, :], axis=1)
    total = tl.full([padded], 1.0, tl.float32)
    mixed = tl.zeros([padded, width], tl.float32) + value.to(tl.float32)[None, :]
    query = query.to(value.dtype)
    for first in range(0, position, chunk):
        past = first + tl.arange(0, chunk)
        known = past < position
        entry = place + past[:, None] * width + at[None, :]
        block = tl.load(keys + entry, mask=known[:, None], other=0.0)
        scores = tl.dot(query, tl.trans(block), input_precision="ieee")
        scores = tl.where(known[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, axis=1))
        fade = tl.exp(top - higher)
        share = tl.exp(scores - higher[:, None])
        total = total * fade + tl.sum(share, axis=1)
        block = tl.load(values + entry, mask=known[:, None], other=0.0)
        mixed = mixed * fade[:, None]
        mixed += tl.dot(share.to(block.dtype), block, input_precision="ieee")
        top = higher
    result = out + row * heads * width + (group * each + head) * width + at[None, :]
    tl.store(result, mixed / total[:, None], mask=real)


@triton.jit
def _draw(logits, heat, point, out, vocab, chunk: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cold = 1.0 / tl.load(heat + row)
    top = float("-inf")
    for first in range(0, vocab, chunk):
        token = first + tl.arange(0, chunk)
        said = tl.load(logits + row * vocab + token, mask=token < vocab, other=float("-inf"))
        top = tl.maximum(top, tl.max(said.to(tl.float32), axis=0))
    total = 0.0
    for first in range(0, vocab, chunk):
        token = first + tl.arange(0, chunk)
        said = tl.load(logits + row * vocab + token, mask=token < vocab, other=float("-inf"))
        total += tl.sum(tl.exp((said.to(tl.float32) - top) * cold), axis=0)
    goal = tl.load(point + row) * total
    # the sums up to each chunk are the same as above, bit for bit, so one chunk holds the goal
    seen = 0.0
    chosen = vocab - 1
    for first in range(0, vocab, chunk):
        token = first + tl.arange(0, chunk)
        said = tl.load(logits + row * vocab + token, mask=token < vocab, other=float("-inf"))
        share = tl.exp((said.to(tl.float32) - top) * cold)
        behind = seen + tl.sum(share, axis=0)
        if (goal >= seen) & (goal < behind):
            passed = tl.sum((seen + tl.cumsum(share, axis=0) <= goal).to(tl.int32), axis=0)
            chosen = tl.minimum(first + tl.minimum(passed, chunk - 1), vocab - 1)
        seen = behind
    tl.store(out + row, chosen.to(tl.int64))


def attend(net: Llama, qkv: Tensor, cache: Tensor, position: int) -> Tensor:
    """`decoding.attend`: one program a row and key head."""
    width, each = net.width, net.heads // net.groups
    out = qkv.new_empty(len(qkv), net.heads * width)
    padded: Any = max(16, triton.next_power_of_2(each))  # the least that tl.dot takes
    sizes: Any = (net.heads, net.groups, width, padded, _KEYS)
    scale = width**-0.5
    _attend[(len(qkv), net.groups)](
        qkv, cache[0], cache[1], net.cos, net.sin, out, position, cache.shape[3], scale, *sizes,
        num_warps=2, num_stages=1,
    )  # fmt: skip
    return out


def draw(logits: Tensor, heat: Tensor, point: Tensor) -> Tensor:
    """`decoding.draw`: one program a row."""
    out = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    vocab = logits.shape[1]
    _draw[(len(logits),)](logits, heat, point, out, vocab, _TOKENS, num_warps=8)
    return out


def check(net: Llama, rows: int = 48, length: int = 80) -> None:
    """Hold both kernels against the plain functions, on random numbers in the model's own sizes.

    Raises:
        RuntimeError: they differ by more than rounding does.
    """
    like = net.embed
    generator = torch.Generator(like.device).manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=like.device).to(like.dtype)

    length = min(length, len(net.cos))
    for position in {0, 1, length // 2, length - 1}:
        qkv = noise(rows, (net.heads + 2 * net.groups) * net.width)
        kept = noise(2, rows, net.groups, length, net.width)
        other = kept.clone()
        wanted, got = plain_attend(net, qkv, kept, position), attend(net, qkv, other, position)
        gap = max(float((wanted - got).abs().max()), float((kept - other).abs().max()))
        if not gap < 0.1:
            raise RuntimeError(f"attention at position {position} differs by {gap:.3g}")
    logits, heat = noise(rows, len(net.head)), noise(rows).float().abs() + 0.7
    point = torch.rand(rows, generator=generator, device=like.device)
    # a sum in another order may step over the border to a neighbour, or over a few unlikely ones
    far = int((plain_draw(logits, heat, point) - draw(logits, heat, point)).abs().max())
    if far > 64:
        raise RuntimeError(f"a drawn token lies {far} tokens from where it should")
