"""A `.gguf` file is read as the model it was made of, and is then a model like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter
from torch import Tensor

from saesteer import Model, load_model

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers": "blk",
}
"""The format's names for the parts of a Llama."""
IDS = torch.tensor([[5, 6, 7, 99]])


def write_gguf(model: Model, path: Path) -> None:
    """A Llama in fp32, as llama.cpp's converter writes it."""
    spelled = model.tokenizer.backend_tokenizer.to_str().replace("\u2581", "\u0120")  # as GPT-2
    config, bpe = model.hf.config, json.loads(spelled)["model"]
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*bpe["vocab"]])
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    for role in ("bos", "eos", "unk", "pad"):
        getattr(writer, f"add_{role}_token_id")(bpe["vocab"][f"<{role}>"])
    for name, weight in model.hf.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        rows = next((_interleaved(weight, n) for part, n in heads.items() if part in name), weight)
        for ours, theirs in _NAMES.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, rows.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleaved(weight: Tensor, n_heads: int) -> Tensor:
    """Halves of each head's rotary dimensions in turns, as llama.cpp has them."""
    return weight.view(n_heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


@pytest.fixture(scope="module")
def read(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The tiny Llama out of its file."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(tiny_model("llama"), path)
    return load_model(path)


def test_the_weights_are_those_of_the_file(read: Model, tiny_model: Any) -> None:
    wanted = tiny_model("llama").hf(IDS).logits
    torch.testing.assert_close(read.hf(IDS).logits, wanted)


def test_it_is_saved_like_any_other(read: Model, tmp_path: Path) -> None:
    read.hf.save_pretrained(tmp_path)
    read.tokenizer.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    torch.testing.assert_close(again.hf(IDS).logits, read.hf(IDS).logits)
    assert again.fingerprint() == read.fingerprint()


def test_it_takes_another_dtype(read: Model) -> None:
    assert load_model(read.hf, dtype="bfloat16").dtype == torch.bfloat16
