"""Propagation rules that make a model's backward pass distribute relevance instead of gradients.

Within the block every nonlinear step is replaced, for the backward pass alone, by a linear map with
the same output, so that x·coefficient sums to the output's own share at every layer (where no bias
takes some):

    norm         x ↦ x ⊙ c, c = norm(x) / x held fixed (LayerNorm: of the centred x)
    activation   x ↦ x ⊙ c, c = act(x) / x held fixed
    gated MLP    act(g) ⊙ u: half the gradient to each factor
    attention    the pattern held fixed, so relevance flows through values alone

Forward values keep every bit. Source: Jafari et al. 2025 (2508.21258), RelP, after Achtibat et al.
2024, AttnLRP. Attention is reached at its projections: q_proj and k_proj, GPT-2's c_attn, NeoX's
query_key_value; other fused forms and experts are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from saesteer.errors import ModelError
from saesteer.models import Model, Site, install, remove
from saesteer.models.hooks import Handle


@contextmanager
def propagation_rules(model: Model) -> Iterator[None]:
    """The rules in place on every block and the final norm, and gone afterwards.

    Raises:
        ModelError: an attention whose queries and keys can't be told apart from its values.
        SiteError: an MLP whose neurons can't be reached.
    """
    handles: list[Handle] = []
    try:
        for layer, block in enumerate(model.layout.blocks):
            handles += _block_rules(model, layer, block)
        handles.append(model.layout.final_norm.register_forward_hook(_norm_rule))
        yield
    finally:
        remove(handles)


def _block_rules(model: Model, layer: int, block: nn.Module) -> list[Handle]:
    neurons = model.layout.point(Site(layer, "neurons"))
    handles: list[Handle] = []
    patterns = 0
    for name, module in block.named_modules():
        last = name.rpartition(".")[2]
        if "Norm" in type(module).__name__:
            handles.append(module.register_forward_hook(_norm_rule))
        elif type(module).__module__.rpartition(".")[2].startswith("activation"):
            handles.append(module.register_forward_hook(_activation_rule))
        elif last in ("q_proj", "k_proj"):
            patterns += 1
            handles.append(module.register_forward_hook(_detach))
        elif last == "query_key_value" or (last == "c_attn" and isinstance(module, Conv1D)):
            patterns += 2
            heads = 1 if last == "c_attn" else model.layout.n_heads
            handles.append(module.register_forward_hook(_detach_all_but_values(heads)))
    if patterns != 2:
        remove(handles)
        raise ModelError(
            f"RelP: the queries and keys of {type(block).__name__} can't be found, so its "
            "attention pattern can't be held; use attribution patching."
        )
    if any(name.endswith(("gate_proj", "gate_up_proj")) for name, _ in block.named_modules()):
        handles.append(install(neurons, _half))
    return handles


def _with_backward(value: Tensor, linear: Tensor) -> Tensor:
    """`value`, bit for bit, with the gradient of `linear`."""
    return value.detach() + (linear - linear.detach())


def _held(numerator: Tensor, x: Tensor) -> Tensor:
    """numerator / x as a constant; 0 where x is."""
    return torch.where(x == 0, 0.0, numerator / torch.where(x == 0, 1.0, x)).detach()


def _norm_rule(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    x = args[0]
    bias = getattr(module, "bias", None)
    linear = output if not isinstance(bias, Tensor) else output - bias
    if isinstance(module, nn.LayerNorm):
        x = x - x.mean(-1, keepdim=True)
    return _with_backward(output, x * _held(linear, x))


def _activation_rule(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return _with_backward(output, args[0] * _held(output, args[0]))


def _detach(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output.detach()


def _detach_all_but_values(heads: int) -> Callable[..., Tensor]:
    """For projections that hold queries, keys and values in this order, whole or head by head."""

    def rule(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        parts = output.unflatten(-1, (heads, 3, -1))
        return torch.cat([parts[..., :2, :].detach(), parts[..., 2:, :]], dim=-2).flatten(-3)

    return rule


def _half(neurons: Tensor) -> Tensor:
    return _with_backward(neurons, neurons / 2)
