"""A layout is read from the model's own structure, or refused by name."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from saesteer.errors import ModelError, SiteError
from saesteer.models import Site, layout_of, record
from saesteer.steer import Plan, affine
from saesteer.steer import all as everywhere


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


@pytest.mark.parametrize("name", ["head_out.1", "neurons.1"])
@pytest.mark.parametrize("arch", ["llama", "gpt2", "neox"])
def test_what_heads_and_neurons_write_is_one_matrix(tiny_model, arch, name):
    model = tiny_model(arch)
    out = Site(1, "attn_out" if name.startswith("head") else "mlp_out")
    batch = model.tokenize("the sea")
    zero = torch.zeros(1, model.layout.width(Site.parse(name)))
    with Plan(affine(name, zero[0], zero[0]), where=everywhere(special=True)).on(model):
        bias = record(model, batch, [out])[out]
    found = record(model, batch, [name, out])
    weight = model.layout.write_weight(Site.parse(name))
    assert torch.allclose(found[Site.parse(name)] @ weight.T, found[out] - bias, atol=1e-3)
    head = model.layout.write_weight(Site(1, "head_out", 2))
    assert torch.equal(head, model.layout.write_weight(Site(1, "head_out"))[:, 16:24])


def test_the_residual_is_written_by_no_one_matrix(tiny_model):
    with pytest.raises(SiteError, match=r"resid_post.1 has no matrix that writes it"):
        tiny_model("llama").layout.write_weight(Site(1, "resid_post"))


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
