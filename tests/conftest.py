"""Tiny random models of every architecture, with a real tokenizer, made in memory.

Fixtures that are functions make things: `tiny_model("llama")`, `tiny_sae(model, "resid_post.2")`.
"""

from __future__ import annotations

import gc
import inspect
import os
from collections.abc import Callable
from functools import cache
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; threads of each would fight
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
import transformers

from saesteer.models import Model, Site, layout_of
from saesteer.saes import SAE

N_LAYERS = 4
D_MODEL = 32
_COMMON = {
    "vocab_size": 128,
    "hidden_size": D_MODEL,
    "intermediate_size": 64,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2}
_HEAD = {**_GROUPED, "head_dim": 8}
_SOFT = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _GROUPED),
    "mistral": ("MistralConfig", _GROUPED),
    "qwen2": ("Qwen2Config", _GROUPED),
    "qwen3": ("Qwen3Config", _HEAD),
    "gemma2": ("Gemma2Config", {**_HEAD, **_SOFT}),
    "gemma3": ("Gemma3TextConfig", _HEAD),
    "mixtral": ("MixtralConfig", {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "neox": ("GPTNeoXConfig", _COMMON),
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": 128,
            "n_embd": D_MODEL,
            "n_layer": N_LAYERS,
            "n_head": 4,
            "n_positions": 256,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
}
ARCHITECTURES = tuple(_CONFIGS)

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def pytest_collection_finish() -> None:
    """Keep what is imported and collected out of every later garbage collection."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let go of it before Python ends, since Triton calls what is left then a leak."""
    gc.unfreeze()
    gc.collect()


@cache
def _tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Characters, a few merges, and special tokens: 128 entries, offline, always the same."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=128,
        special_tokens=["<pad>", "<bos>", "<eos>", "<unk>"],
        initial_alphabet=[chr(c) for c in range(33, 127)],
        show_progress=False,
    )
    raw.train_from_iterator(["the rain in the town and the sea in the sun"] * 4, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_tiny_model(arch: str, seed: int = 0) -> Model:
    """A random float32 model with weights large enough that edits matter."""
    kind, settings = _CONFIGS[arch]
    config = getattr(transformers, kind)(**settings)
    torch.manual_seed(seed)
    hf = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(6.0 if "embed" not in name and "wte" not in name else 30.0)
    model = Model(hf, _tokenizer(), f"tiny-{arch}", layout_of(hf))
    hf.__dict__["_saesteer_model"] = model
    return model


def make_tiny_sae(model: Model, site: str | Site, d_sae: int = 96, seed: int = 0) -> SAE:
    """A random threshold-form SAE whose latents fire on some tokens and not on others."""
    parsed = Site.parse(site)
    width = model.layout.width(parsed)
    generator = torch.Generator().manual_seed(seed)
    w_dec = torch.nn.functional.normalize(torch.randn(d_sae, width, generator=generator), dim=-1)
    return SAE(
        w_enc=w_dec.t().contiguous(),
        b_enc=0.1 * torch.randn(d_sae, generator=generator),
        w_dec=w_dec,
        b_dec=0.1 * torch.randn(width, generator=generator),
        threshold=torch.full((d_sae,), 0.5),
        site=parsed,
        model_name=model.name,
        name="tiny-sae",
    )


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Model]:
    """Makes tiny models by architecture; one per architecture and session, so leave it clean."""
    return cache(make_tiny_model)


@pytest.fixture
def brief_identities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are fitted in a fifth of the steps: enough for the few that tests plant."""
    from saesteer.evals import prover_reader
    from saesteer.features import identity

    fit = inspect.unwrap(identity.fit_identity)
    monkeypatch.setitem(fit.__kwdefaults__, "n_steps", 200)
    brief = tuple(n_steps // 5 for n_steps in prover_reader.N_STEPS)
    monkeypatch.setattr(prover_reader, "N_STEPS", brief)


@pytest.fixture(scope="session")
def tiny_sae() -> Callable[..., SAE]:
    """Makes a random SAE for a model and a site."""
    return make_tiny_sae


@pytest.fixture(scope="session")
def real_model() -> Model:
    """smollm2-135m-instruct, from the cache or fetched."""
    import pytest_socket

    from saesteer.models import load_model

    pytest_socket.enable_socket()
    try:
        return load_model("smollm2-135m-instruct", device="cpu")
    finally:
        pytest_socket.disable_socket(allow_unix_socket=True)
