"""Find a model's sites from its own structure, so that a new architecture mostly needs no code.

A decoder is read as: one `ModuleList` of `num_hidden_layers` blocks, each with an attention and an
MLP part under one of a few names; hybrids have blocks without attention among them. Where families
differ in meaning, not in name, the rule is here: Gemma 2 and 3, OLMo 2 and 3, EXAONE 4 and GLM-4
normalise what attention and MLP add, so their contributions are those norms' outputs; OLMo's and
EXAONE's MLP has no norm before it, so `resid_mid` is what it reads; a parallel-residual block has
no `resid_mid`; fused experts hide their neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from saesteer.errors import ModelError, SiteError
from saesteer.models.hooks import HookPoint
from saesteer.models.offload import weight_of
from saesteer.models.sites import Site
from saesteer.shown import shown

_ATTENTION = ("self_attn", "attn", "attention")
_MLP = ("mlp", "block_sparse_moe", "feed_forward")
_ATTENTION_PROJECTION = ("o_proj", "c_proj", "dense", "out_proj", "o")
_MLP_PROJECTION = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "out")
_BEFORE_MLP = ("pre_feedforward_layernorm", "pre_mlp_layernorm")
_AFTER_ATTENTION = ("post_attention_layernorm", "ln_2", "ln2")
_BEHIND_MLP = ("post_feedforward_layernorm", "post_mlp_layernorm")
_ROUTER = ("gate", "router")
_FINAL_NORM = ("norm", "ln_f", "final_layer_norm", "final_layernorm")


@shown
@dataclass(frozen=True, eq=False)
class Layout:
    """The parts of one model that sites, readers and editors need.

    `base` is the module whose forward receives `input_ids` and `attention_mask`; its `blocks`
    carry the residual stream of width `d_model`.
    """

    base: nn.Module
    blocks: Sequence[nn.Module]
    final_norm: nn.Module
    unembed: nn.Module
    d_model: int
    n_heads: int
    d_head: int
    parallel_residual: bool

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def point(self, site: Site) -> HookPoint:
        """The hook point of `site`.

        Raises:
            SiteError: this model has no such layer, head or kind of site.
        """
        if not 0 <= site.layer < self.n_layers:
            raise SiteError(
                f"layer {site.layer} does not exist (site {site}); "
                f"the model has layers 0-{self.n_layers - 1}."
            )
        block = self.blocks[site.layer]
        match site.kind:
            case "resid_pre":
                return HookPoint(block, "in")
            case "resid_post":
                return HookPoint(block, "out")
            case "resid_mid":
                return HookPoint(self._mid_reader(block, site), "in")
            case "attn_out" | "mlp_out":
                return HookPoint(_contribution(block, site), "out")
            case "mlp_in":
                return HookPoint(_part(block, _MLP, site), "in")
            case "head_out":
                projection = _part(_part(block, _ATTENTION, site), _ATTENTION_PROJECTION, site)
                return HookPoint(projection, "in", self._columns(site))
            case "neurons":
                return HookPoint(_neurons(block, site), "in")
            case "router_in":
                return HookPoint(_router(block, site), "in", rows_of=_part(block, _MLP, site))
            case _:
                raise SiteError(f"{site.kind!r} is not a kind of site.")

    def width(self, site: Site) -> int:
        """Size of the last axis at `site`."""
        match site.kind:
            case "head_out":
                return self.d_head if site.head is not None else self.n_heads * self.d_head
            case "neurons":
                return int(matrix_of(self.point(site).module).shape[1])
            case _:
                return self.d_model

    def write_weight(self, site: Site) -> Float[Tensor, "d_model width"]:
        """The matrix that writes heads or neurons to the residual: W_O's columns, or W_down.

        A norm behind it (Gemma 2 and 3, OLMo 2 ...) and a bias are not in it.

        Raises:
            SiteError: the site is of another kind, or this model does not have it.
        """
        if site.kind not in ("head_out", "neurons"):
            raise SiteError(f"{site} has no matrix that writes it; give head_out or neurons.")
        point = self.point(site)
        weight = matrix_of(point.module).float()
        return weight if point.columns is None else weight[:, slice(*point.columns)]

    def router_weight(self, site: Site) -> Tensor:
        """What a layer's router multiplies its input by to get the experts' logits.

        Returns:
            `[experts, d_model]`.

        Raises:
            SiteError: the layer has no router.
        """
        return weight_of(unwrap(self.point(site).module))

    def _mid_reader(self, block: nn.Module, site: Site) -> nn.Module:
        if self.parallel_residual:
            raise SiteError(
                f"{site} does not exist: attention and MLP of this model run in parallel, "
                "so there is no residual between them; use resid_pre or resid_post."
            )
        reader = _MLP if _norms_attention(block) else _AFTER_ATTENTION
        return _part(block, (*_BEFORE_MLP, *reader), site)

    def _columns(self, site: Site) -> tuple[int, int] | None:
        if site.head is None:
            return None
        if not 0 <= site.head < self.n_heads:
            raise SiteError(
                f"head {site.head} does not exist; layer {site.layer} has heads "
                f"0-{self.n_heads - 1}."
            )
        return site.head * self.d_head, (site.head + 1) * self.d_head


def unwrap(module: nn.Module) -> nn.Module:
    """The Hugging Face module inside a TransformerBridge component; any other module itself."""
    return module._modules.get("_original_component") or module


def is_transposed(module: nn.Module) -> bool:
    """Whether a linear layer keeps its weight as `[in, out]`, as transformers' Conv1D (GPT-2)."""
    return type(unwrap(module)).__name__ == "Conv1D"


def matrix_of(module: nn.Module) -> Float[Tensor, "out in"]:
    """W of a linear layer y = W x, however it is stored; without gradients."""
    stored = weight_of(unwrap(module))
    return stored.T if is_transposed(module) else stored


def layout_of(hf: nn.Module) -> Layout:
    """Read the layout of a Hugging Face causal language model.

    Raises:
        ModelError: its structure is none that this reader knows.
    """
    config = _text_config(hf)
    n_layers = _config_value(config, hf, "num_hidden_layers")
    base, blocks = _find_blocks(hf, n_layers)
    n_heads = _config_value(config, hf, "num_attention_heads")
    d_model = _config_value(config, hf, "hidden_size")
    finder: Any = getattr(hf, "get_output_embeddings", None)
    unembed = finder() if finder is not None else None
    final_norm = next((getattr(base, n) for n in _FINAL_NORM if hasattr(base, n)), None)
    if unembed is None or final_norm is None:
        missing = "output embedding" if unembed is None else "final norm"
        raise ModelError(f"{type(hf).__name__}: no {missing} found; is it a causal decoder?")
    return Layout(
        base=base,
        blocks=tuple(blocks),
        final_norm=final_norm,
        unembed=unembed,
        d_model=d_model,
        n_heads=n_heads,
        d_head=getattr(config, "head_dim", None) or d_model // n_heads,
        parallel_residual=bool(getattr(config, "use_parallel_residual", False)),
    )


def _text_config(hf: nn.Module) -> Any:
    config = getattr(hf, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        raise ModelError(
            f"{type(hf).__name__} is not a Hugging Face model: it has no config. "
            "Pass a causal LM, its name or folder, or a TransformerBridge."
        )
    return config.get_text_config()


def _config_value(config: Any, hf: nn.Module, name: str) -> int:
    value = getattr(config, name, None)
    if value is None:
        raise ModelError(f"{type(hf).__name__}: its config has no {name}; can't read its layout.")
    return int(value)


def _find_blocks(hf: nn.Module, n_layers: int) -> tuple[nn.Module, nn.ModuleList]:
    for module in hf.modules():
        for child in module.children():
            if not isinstance(child, nn.ModuleList) or len(child) != n_layers:
                continue
            if any(map(_is_block, child)):
                return module, child
    raise ModelError(
        f"{type(hf).__name__}: no list of {n_layers} blocks with an attention and an MLP part; "
        f"known names are {', '.join(_ATTENTION)} and {', '.join(_MLP)}."
    )


def _is_block(module: nn.Module) -> bool:
    return any(hasattr(module, n) for n in _ATTENTION) and any(hasattr(module, n) for n in _MLP)


def _part(module: nn.Module, names: Sequence[str], site: Site) -> nn.Module:
    for name in names:
        found = getattr(module, name, None)
        if isinstance(found, nn.Module):
            return found
    raise SiteError(f"{site} can't be read: {type(module).__name__} has none of {list(names)}.")


def _contribution(block: nn.Module, site: Site) -> nn.Module:
    """The module whose output is what attention or MLP adds to the residual stream."""
    factor = float(getattr(block, "residual_multiplier", 1.0))
    if factor != 1:
        raise SiteError(
            f"{site} does not exist: this model adds {factor:g} times what attention and MLP put "
            "out, behind every module; use resid_pre, resid_mid or resid_post."
        )
    if site.kind == "attn_out":
        also = ("post_attention_layernorm",) if _norms_attention(block) else ()
        norms, names = ("post_self_attn_layernorm", *also), _ATTENTION
    else:
        norms, names = _BEHIND_MLP, _MLP
    return _part(block, [norm for norm in norms if hasattr(block, norm)] or names, site)


def _norms_attention(block: nn.Module) -> bool:
    """Whether `post_attention_layernorm` norms what attention adds; Llama's is the MLP's own norm.

    It does where the MLP has a norm of another name, before it or behind it.
    """
    return hasattr(block, "post_feedforward_layernorm") or hasattr(block, "pre_mlp_layernorm")


def _router(block: nn.Module, site: Site) -> nn.Module:
    mlp = _part(block, _MLP, site)
    if not hasattr(mlp, "experts"):
        raise SiteError(
            f"{site} does not exist: {type(mlp).__name__} is no mixture of experts; use mlp_in."
        )
    return _part(mlp, _ROUTER, site)


def _neurons(block: nn.Module, site: Site) -> nn.Module:
    mlp = _part(block, _MLP, site)
    if hasattr(mlp, "experts"):
        raise SiteError(
            f"{site} can't be read: the experts of {type(mlp).__name__} are fused parameters; "
            "use mlp_out."
        )
    return _part(mlp, _MLP_PROJECTION, site)
