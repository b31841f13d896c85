"""Families whose blocks differ in where norms are, or from layer to layer: exact all the same.

What attention and MLP add, at their sites, is what the residual gains.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
import transformers

from saesteer.errors import ModelError, SiteError
from saesteer.models import Model, Site, TokenBatch, as_model, layout_of, record

COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
CONFIGS = {
    "llama": ("LlamaConfig", {}),
    "gemma2": ("Gemma2Config", {}),
    "gemma3": ("Gemma3TextConfig", {}),
    "qwen3": ("Qwen3Config", {}),
    "olmo2": ("Olmo2Config", {}),
    "olmo3": ("Olmo3Config", {}),
    "exaone4": ("Exaone4Config", {}),
    "glm4": ("Glm4Config", {}),
    "afmoe": ("AfmoeConfig", {"num_dense_layers": 2, **EXPERTS}),
    "vaultgemma": ("VaultGemmaConfig", {}),
    "granite": ("GraniteConfig", {}),
    "granite scaled": ("GraniteConfig", {"residual_multiplier": 0.22}),
    "qwen3_next": ("Qwen3NextConfig", {**EXPERTS, **LINEAR}),
    "qwen3_5": ("Qwen3_5TextConfig", LINEAR),
}
HYBRIDS = ("qwen3_next", "qwen3_5")
"""Their first three blocks have no self-attention, the fourth has."""


@cache
def family(name: str) -> Model:
    """A random model in which norms differ from the identity."""
    kind, settings = CONFIGS[name]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**{**COMMON, **settings})
    hf = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.mul_(4.0 if parameter.ndim > 1 else 1.0)
            if parameter.ndim == 1:
                parameter.add_(torch.rand_like(parameter) / 2)
    return as_model(hf)


def read(name: str, layer: int, *kinds: str) -> list[torch.Tensor]:
    ids = torch.tensor([[5, 9, 33, 2, 17, 40]])
    sites = [Site(layer, kind) for kind in kinds]
    found = record(family(name), TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool)), sites)
    return [found[site] for site in sites]


def layers_of(name: str) -> tuple[int, ...]:
    return (3,) if name in HYBRIDS else (0, 3)


@pytest.mark.parametrize(
    ("name", "layer"), [(n, at) for n in CONFIGS for at in layers_of(n) if "scaled" not in n]
)
def test_what_attention_and_mlp_add_is_what_the_residual_gains(name, layer):
    kinds = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    pre, attn, mid, mlp, post = read(name, layer, *kinds)
    torch.testing.assert_close(pre + attn, mid, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mid + mlp, post, atol=1e-5, rtol=1e-5)
    assert min(part.abs().max() for part in (attn, mlp)) > 1e-3


@pytest.mark.parametrize("name", ["olmo2", "olmo3", "exaone4"])
def test_an_mlp_without_a_norm_before_it_reads_the_residual_itself(name):
    mid, mlp_in = read(name, 1, "resid_mid", "mlp_in")
    assert torch.equal(mid, mlp_in)


@pytest.mark.parametrize("name", HYBRIDS)
@pytest.mark.parametrize("layer", [0, 3])
def test_hybrids_are_read_where_they_have_the_site(name, layer):
    assert family(name).n_layers == 4
    mid, mlp, post = read(name, layer, "resid_mid", "mlp_out", "resid_post")
    torch.testing.assert_close(mid + mlp, post, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", HYBRIDS)
@pytest.mark.parametrize("kind", ["attn_out", "head_out"])
def test_a_block_without_attention_says_so(name, kind):
    with pytest.raises(SiteError, match=rf"{kind}\.0 can't be read: \w+ has none of \['self_attn"):
        family(name).check_site(Site(0, kind))
    family(name).check_site(Site(3, kind))


def test_a_list_of_other_things_is_still_no_list_of_blocks():
    config = transformers.MambaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=2)
    config.num_attention_heads = 1
    with pytest.raises(ModelError, match="no list of 2 blocks with an attention and an MLP part"):
        layout_of(transformers.MambaForCausalLM(config))


@pytest.mark.parametrize("kind", ["attn_out", "mlp_out"])
def test_what_is_multiplied_behind_its_module_is_no_site(kind):
    model = family("granite scaled")
    with pytest.raises(SiteError, match=rf"{kind}\.1 does not exist: this model adds 0.22 times"):
        model.check_site(Site(1, kind))
    model.check_site(Site(1, "resid_mid"))
