"""Sampling rows of text from a Llama-type model, all rows one token further at each step.

The step is written out over the model's own weights instead of calling the model, for two reasons:
everything it reads and writes lies in buffers that stay in place, so that a GPU can capture each
position's step as a CUDA graph and replay it (launching the kernels one by one costs more than
running them); and a row's whole opening needs no mask, since all rows are equally far. Devices
without CUDA run the same step uncaptured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saesteer import Model
from saesteer.errors import ModelError

Attend = Callable[["Llama", Tensor, Tensor, int], Tensor]
Draw = Callable[[Tensor, Tensor, Tensor], Tensor]
_BLOCK = 512
"""Most tokens of the vocabulary that are summed as one before the draw looks into them."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer's weights; those that read the same input as one matrix."""

    before_attention: Float[Tensor, " d_model"]
    qkv: Float[Tensor, "qkv d_model"]
    out: Float[Tensor, "d_model mixed"]
    before_mlp: Float[Tensor, " d_model"]
    gate: Float[Tensor, "d_mlp d_model"]
    up: Float[Tensor, "d_mlp d_model"]
    down: Float[Tensor, "d_model d_mlp"]


@dataclass(frozen=True, eq=False)
class Llama:
    """A Llama-type model's weights and what its step has to know of its config."""

    embed: Float[Tensor, "vocab d_model"]
    layers: list[Layer]
    norm: Float[Tensor, " d_model"]
    head: Float[Tensor, "vocab d_model"]
    cos: Float[Tensor, "length width"]
    sin: Float[Tensor, "length width"]
    heads: int
    groups: int
    eps: float

    @property
    def width(self) -> int:
        """Of one head."""
        return self.cos.shape[1]

    @classmethod
    def of(cls, model: Model, length: int) -> Llama:
        """The weights of `model`, shared where its own layout will do.

        Raises:
            ModelError: not a plain Llama, or `length` is past what it can read.
        """
        hf: Any = model.hf
        config = hf.config
        _check(config, model.name, length)
        positions = torch.arange(length, device=model.device)[None]
        like = torch.zeros(1, 1, 1, device=model.device)
        cos, sin = (table[0].contiguous() for table in hf.model.rotary_emb(like, positions))
        return cls(
            embed=hf.model.embed_tokens.weight,
            layers=[_layer(layer) for layer in hf.model.layers],
            norm=hf.model.norm.weight,
            head=hf.lm_head.weight,
            cos=cos,
            sin=sin,
            heads=config.num_attention_heads,
            groups=config.num_key_value_heads,
            eps=config.rms_norm_eps,
        )


def _check(config: Any, name: str, length: int) -> None:
    plain = config.model_type == "llama" and config.hidden_act == "silu"
    if not plain or config.attention_bias or config.mlp_bias:
        raise ModelError(
            f"{name} is a {config.model_type}; text is sampled from Llama-type models without "
            "biases only, such as smollm2-135m-instruct."
        )
    if length > config.max_position_embeddings:
        limit = config.max_position_embeddings
        raise ModelError(f"{name} reads {limit} tokens at most, got a length of {length}.")


def _layer(layer: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    reads = (attention.q_proj, attention.k_proj, attention.v_proj)
    return Layer(
        before_attention=layer.input_layernorm.weight,
        qkv=torch.cat([part.weight for part in reads]),
        out=attention.o_proj.weight,
        before_mlp=layer.post_attention_layernorm.weight,
        gate=mlp.gate_proj.weight,
        up=mlp.up_proj.weight,
        down=mlp.down_proj.weight,
    )


def attend(
    net: Llama, qkv: Float[Tensor, "rows qkv"], cache: Float[Tensor, "..."], position: int
) -> Float[Tensor, "rows mixed"]:
    """One layer's attention from `position`, whose key and value are put into `cache` first.

    The query heads that share a key are read as a matrix: ten times as fast on a CPU as repeating
    keys and values for every head. `cache` is `[2, rows, groups, length, width]`.
    """
    rows, width = len(qkv), net.width
    heads = qkv.view(rows, -1, width)
    turning, value = heads[:, : -net.groups], heads[:, -net.groups :]
    half = torch.cat((-turning[..., width // 2 :], turning[..., : width // 2]), -1)
    turned = (turning * net.cos[position] + half * net.sin[position]).to(qkv.dtype)
    cache[0, :, :, position] = turned[:, net.heads :]
    cache[1, :, :, position] = value
    keys, values = cache[..., : position + 1, :].flatten(1, 2)
    queries = turned[:, : net.heads].reshape(rows * net.groups, -1, width)
    chances = torch.bmm(queries * width**-0.5, keys.transpose(1, 2)).softmax(-1)
    return torch.bmm(chances, values).view(rows, -1)


def draw(
    logits: Float[Tensor, "rows vocab"], heat: Float[Tensor, " rows"], point: Float[Tensor, " rows"]
) -> Int[Tensor, " rows"]:
    """The token of each row in whose share of the chances, laid end to end, `point` (0..1) lies.

    First the block of tokens is found, then the token in it, which reads the vocabulary once
    instead of summing along all of it.
    """
    vocab = logits.shape[1]
    size = max(n for n in range(1, min(_BLOCK, vocab) + 1) if vocab % n == 0)
    cooled = logits.to(torch.float32, copy=True).div_(heat[:, None])
    chances = cooled.softmax(-1).unflatten(1, (-1, size))
    upto = chances.sum(-1).cumsum(-1)
    goal = point[:, None] * upto[:, -1:]
    block = torch.searchsorted(upto, goal, right=True).clamp_(max=upto.shape[1] - 1)
    within = chances.gather(1, block[..., None].expand(-1, 1, size))[:, 0].cumsum(-1)
    rest = goal - F.pad(upto, (1, 0)).gather(1, block)
    token = torch.searchsorted(within, rest, right=True).clamp_(max=size - 1)
    return (block * size + token)[:, 0]


def logits_after(
    net: Llama,
    tokens: Int[Tensor, " rows"],
    cache: Float[Tensor, "layers 2 rows groups length width"],
    position: int,
    attend: Attend = attend,
) -> Float[Tensor, "rows vocab"]:
    """What the model says after `tokens`, which stand at `position`; `cache` holds all before."""

    def normed(x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, net.eps)

    resid = F.embedding(tokens, net.embed)
    for layer, kept in zip(net.layers, cache, strict=True):
        qkv = normed(resid, layer.before_attention) @ layer.qkv.t()
        resid.addmm_(attend(net, qkv, kept, position), layer.out.t())
        x = normed(resid, layer.before_mlp)
        inner = F.silu(x @ layer.gate.t(), inplace=True).mul_(x @ layer.up.t())
        resid.addmm_(inner, layer.down.t())
    return normed(resid, net.norm) @ net.head.t()


@dataclass(frozen=True, eq=False)
class Start:
    """What decides a part of the text: its openings, and a random number for every token."""

    ids: Int[Tensor, "length rows"]
    given: Bool[Tensor, "length rows"]
    points: Float[Tensor, "length rows"]

    @classmethod
    def of(cls, openings: list[list[int]], length: int, seed: int) -> Start:
        """Openings as token ids, cut to `length`; the numbers are the same for every device."""
        ids = torch.zeros(length, len(openings), dtype=torch.long)
        given = torch.zeros(length, len(openings), dtype=torch.bool)
        for row, opening in enumerate(openings):
            opening = opening[:length]
            ids[: len(opening), row] = torch.tensor(opening)
            given[: len(opening), row] = True
        generator = torch.Generator().manual_seed(seed)
        return cls(ids, given, torch.rand(length, len(openings), generator=generator))


class Decoder:
    """Samples parts of `rows` rows of `length` tokens, at the temperatures `heats` in turn."""

    @torch.inference_mode()
    def __init__(self, model: Model, rows: int, length: int, heats: tuple[float, ...]) -> None:
        device = model.device
        self.net = net = Llama.of(model, length)
        shape = (len(net.layers), 2, rows, net.groups, length, net.width)
        self.cache = torch.zeros(shape, dtype=net.embed.dtype, device=device)
        self.heat = torch.tensor(heats, device=device).repeat(-(-rows // len(heats)))[:rows]
        start = Start.of([[]] * rows, length, 0)
        self.ids, self.given = start.ids.to(device), start.given.to(device)
        self.points = start.points.to(device)
        self.attend: Attend = attend
        self.draw: Draw = draw
        self.graphs: list[torch.cuda.CUDAGraph] = []
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self.stream is not None and (kernels := _working_kernels(net)) is not None:
            self.attend, self.draw = kernels.attend, kernels.draw

    @torch.inference_mode()
    def sample(self, start: Start) -> Int[Tensor, "rows length"]:
        """Token ids on the CPU: each row's opening, continued by the model."""
        self.ids.copy_(start.ids)
        self.given.copy_(start.given)
        self.points.copy_(start.points)
        if self.stream is None:
            for position in range(len(self.ids) - 1):
                self._step(position)
            return self.ids.t().contiguous()
        torch.cuda.synchronize()
        with torch.cuda.stream(self.stream):
            for graph in self.graphs:
                graph.replay()
            if not self.graphs:
                for position in range(len(self.ids) - 1):
                    self._step(position)
            return self.ids.t().contiguous().cpu()

    def _step(self, position: int) -> None:
        """Draw the tokens behind `position`, or keep those that are given."""
        tokens, behind = self.ids[position], position + 1
        logits = logits_after(self.net, tokens, self.cache, position, self.attend)
        drawn = self.draw(logits, self.heat, self.points[position])
        self.ids[behind] = torch.where(self.given[behind], self.ids[behind], drawn)

    @torch.inference_mode()
    def capture(self) -> None:
        """Let later parts replay graphs, one a position; on CUDA, after a first part was drawn.

        That first part loads every kernel, which capturing may not. Where capturing fails, says so
        and leaves things as they are.
        """
        if self.stream is None:
            return
        try:
            with torch.cuda.stream(self.stream):
                pool = torch.cuda.graph_pool_handle()
                graphs = [self._captured(p, pool) for p in range(len(self.ids) - 1)]
            torch.cuda.synchronize()
        except Exception as error:  # whatever it is, text can be drawn without
            _say(f"CUDA graphs can't be captured, going on without: {error}")
        else:
            self.graphs = graphs

    def _captured(self, position: int, pool: Any) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # other threads write parts meanwhile
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            self._step(position)
        finally:
            graph.capture_end()
        return graph


def _working_kernels(net: Llama) -> ModuleType | None:
    """The Triton kernels, if on this machine they run and say what the plain functions say."""
    try:
        import decode_kernels

        decode_kernels.check(net)
    except Exception as error:  # a missing compiler, an unknown chip: plain products do as well
        _say(f"the Triton kernels can't be used, going on without: {error}")
        return None
    return decode_kernels


def _say(line: str) -> None:
    print(" ".join(line.split())[:400], file=sys.stderr)
