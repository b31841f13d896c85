"""A layout is read from the model's own structure, or refused by name."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from saesteer.errors import ModelError
from saesteer.models import layout_of


def test_every_architecture_is_read(tiny_model, arch):
    model = tiny_model(arch)
    layout = model.layout
    assert (layout.n_layers, layout.d_model, layout.n_heads, layout.d_head) == (4, 32, 4, 8)
    assert layout.parallel_residual == (arch == "neox")
    assert layout.unembed.weight.shape == (128, 32)
    with torch.no_grad():
        hidden = layout.base(input_ids=torch.tensor([[5, 6]]))[0]
        direct = model.hf(torch.tensor([[5, 6]])).logits
        assert torch.allclose(layout.unembed(hidden), direct, atol=1e-4) or arch == "gemma2"


def test_an_encoder_is_refused():
    settings = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    bert = transformers.BertModel(transformers.BertConfig(intermediate_size=8, **settings))
    with pytest.raises(ModelError, match=r"BertModel: no list of 1 blocks with an attention and"):
        layout_of(bert)


def test_a_bare_module_is_refused():
    with pytest.raises(ModelError, match="Linear is not a Hugging Face model: it has no config"):
        layout_of(nn.Linear(2, 2))


def test_a_base_model_without_an_output_is_refused(tiny_model):
    with pytest.raises(ModelError, match="LlamaModel: no output embedding found"):
        layout_of(tiny_model("llama").hf.model)
