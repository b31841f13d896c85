"""Every kind of thing that `load_model` takes, and one clear line for what it can't."""

from __future__ import annotations

import copy
import inspect
import re

import pytest
import torch
from torch import nn

from saesteer.errors import ModelError, NetworkError, SaesteerError
from saesteer.models import Model, as_model, load_model, logits
from saesteer.models.fingerprint import weights_fingerprint
from saesteer.models.placing import as_dtype


@pytest.fixture
def saved(tiny_model, tmp_path):
    """A folder with a model and its tokenizer, and the model that was saved."""
    model = tiny_model("llama")
    folder = tmp_path / "tiny"
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder, model


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def test_a_folder_gives_back_the_model_that_was_saved(saved):
    folder, model = saved
    loaded = load_model(folder, device="cpu")
    batch = model.tokenize("the rain in the town")
    assert loaded.name == str(folder)
    assert loaded.tokenizer("the rain")["input_ids"] == model.tokenizer("the rain")["input_ids"]
    assert torch.equal(logits(loaded, batch), logits(model, batch))
    assert loaded.fingerprint() == model.fingerprint()
    assert not loaded.hf.training


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_one_model_in_two_dtypes_has_one_fingerprint(saved, dtype):
    folder, model = saved
    half = load_model(str(folder), dtype=dtype, device="cpu")
    assert half.dtype == torch.bfloat16
    assert half.fingerprint() == model.fingerprint()


def test_float32_is_the_default_on_a_cpu(saved):
    folder, model = saved
    half = copy.deepcopy(model.hf).to(torch.bfloat16)
    half.save_pretrained(folder)
    assert load_model(folder, device="cpu").dtype == torch.float32
    assert load_model(folder, device="cpu", dtype="auto").dtype == torch.bfloat16


def test_another_weight_gives_another_fingerprint(tiny_model):
    model = tiny_model("llama")
    other = copy.deepcopy(model.hf)
    del other.__dict__["_saesteer_model"]
    assert as_model(other).fingerprint() == model.fingerprint()
    changed = copy.deepcopy(model.hf)
    del changed.__dict__["_saesteer_model"]
    with torch.no_grad():
        changed.model.layers[2].mlp.up_proj.weight[0, 0] *= 1.05
    assert as_model(changed).fingerprint() != model.fingerprint()
    assert len(model.fingerprint()) == 16


def test_a_module_keeps_its_wrapper(tiny_model):
    model = tiny_model("gpt2")
    assert as_model(model) is model
    assert as_model(model.hf) is model
    assert load_model(model) is model
    bare = copy.deepcopy(model.hf)
    del bare.__dict__["_saesteer_model"]
    wrapped = as_model(bare)
    assert isinstance(wrapped, Model)
    assert as_model(bare) is wrapped
    assert wrapped.tokenizer is None
    assert wrapped.hf is bare


def test_a_copied_module_gets_a_wrapper_of_its_own(tiny_model):
    model = tiny_model("gpt2")
    twin = copy.deepcopy(model.hf)
    assert as_model(twin).hf is twin
    assert as_model(twin).layout.blocks[0] is twin.transformer.h[0]


def test_a_tokenizer_can_be_given(tiny_model):
    model = tiny_model("gpt2")
    bare = copy.deepcopy(model.hf)
    del bare.__dict__["_saesteer_model"]
    wrapped = load_model(bare, tokenizer=model.tokenizer)
    assert wrapped.tokenizer is model.tokenizer
    assert wrapped.generate("the rain", max_new_tokens=3) == model.generate(
        "the rain", max_new_tokens=3
    )


@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model"])
def test_an_unknown_name_without_a_network(name):
    with pytest.raises(NetworkError, match="not in the local cache, and the hub can't be") as error:
        load_model(name)
    assert one_line(error).startswith(f"{name}: ")


@pytest.mark.parametrize("name", ["./missing", "/no/such/folder", "a/b/c", "~/no-such-folder"])
def test_a_missing_folder(name):
    with pytest.raises(ModelError, match="no such folder"):
        load_model(name)


def test_a_folder_that_holds_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"the folder has no config\.json, so it holds no model"):
        load_model(tmp_path)


def test_a_missing_gguf_file(tmp_path):
    with pytest.raises(ModelError, match="no such GGUF file"):
        load_model(tmp_path / "model.gguf")


def test_a_damaged_gguf_file(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ModelError, match="can't be read as a causal language model") as error:
        load_model(tmp_path / "model.gguf")
    one_line(error)


@pytest.mark.parametrize("keep", [0, 7, 4000])
def test_truncated_weights(saved, keep):
    folder, _ = saved
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ModelError, match="can't be read as a causal language model") as error:
        load_model(folder)
    one_line(error)


def test_missing_weights(saved):
    folder, _ = saved
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="can't be read as a causal language model") as error:
        load_model(folder)
    one_line(error)


def test_pickled_weights_are_not_read(saved):
    folder, model = saved
    (folder / "model.safetensors").unlink()
    torch.save(model.hf.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load_model(folder)


def test_a_damaged_config(saved):
    folder, _ = saved
    (folder / "config.json").write_text('{"model_type": "llama", ')
    with pytest.raises(ModelError, match="can't be read as a causal language model") as error:
        load_model(folder)
    one_line(error)


@pytest.mark.parametrize("dtype", ["banana", "nn", "int", torch.int8])
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_is_no_dtype_of_floats(tiny_model, dtype, wrapped):
    ref = tiny_model("gpt2").hf if wrapped else "smollm2-135m-instruct"
    text = f"{dtype!r} is not a dtype of floats; use float32, bfloat16, float16, auto or fastest."
    with pytest.raises(ModelError, match=re.escape(text)):
        load_model(ref, dtype=dtype)


@pytest.mark.parametrize("dtype", [16, None, float])
def test_what_is_no_dtype_at_all(dtype):
    read = inspect.unwrap(as_dtype)  # without the tests' own check of types
    with pytest.raises(ModelError, match="is not a dtype of floats; use float32"):
        read(dtype, ModelError)


def test_a_cast_model_has_the_fingerprint_of_its_own_weights(tiny_model):
    hf = copy.deepcopy(tiny_model("llama").hf)
    with torch.no_grad():
        hf.model.layers[0].mlp.up_proj.weight[0, 0] = 1e-9  # nothing in float16
    before = as_model(hf).fingerprint()
    cast = load_model(hf, dtype="float16")
    assert cast.hf is hf
    assert cast.fingerprint() == weights_fingerprint(hf) != before


def test_a_text_that_is_no_device():
    with pytest.raises(ModelError, match="'banana' is not a device; use cpu, cuda"):
        load_model("smollm2-135m-instruct", device="banana")


def test_a_device_that_is_not_there_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ModelError, match=r"there is no device 'cuda:57' here \(.*\); use cpu"):
        load_model(tmp_path, device="cuda:57")


def test_a_device_that_is_not_there(tiny_model):
    model = copy.deepcopy(tiny_model("gpt2"))
    with pytest.raises(ModelError, match="can't be put on") as error:
        load_model(model.hf, device="cuda:57")
    one_line(error)


@pytest.mark.parametrize("thing", [None, 5, nn.Linear(2, 2), {"model": 1}])
def test_things_that_are_no_model(thing):
    with pytest.raises(ModelError, match="is not a"):
        load_model(thing)


def test_every_error_is_in_the_tree():
    assert issubclass(ModelError, SaesteerError)
    assert issubclass(NetworkError, SaesteerError)


@pytest.mark.real
def test_the_embedded_model(real_model):
    assert (real_model.n_layers, real_model.d_model) == (30, 576)
    assert real_model.name == "smollm2-135m-instruct"
    assert real_model.dtype == torch.float32
    text = real_model.generate([{"role": "user", "content": "What is the capital of France?"}])
    assert "Paris" in text
