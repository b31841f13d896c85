"""TransformerLens's names of models mean the hub's: published SAEs carry them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from saesteer.errors import NetworkError
from saesteer.models import load_model, load_skeleton


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("gpt2-small", "gpt2"),
        ("gemma-2-2b", "google/gemma-2-2b"),
        ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
        ("mistral-7b", "mistralai/Mistral-7B-v0.1"),
        ("qwen3-1.7b", "Qwen/Qwen3-1.7B"),
        ("GPT2-small", "gpt2"),
    ],
)
@pytest.mark.parametrize("load", [load_model, load_skeleton])
def test_an_alias_is_looked_for_under_its_name_on_the_hub(load, alias, name):
    with pytest.raises(NetworkError) as caught:
        load(alias)
    assert str(caught.value).startswith(f"{name}: not in the local cache")


def test_a_folder_comes_before_an_alias(tiny_model, tmp_path, monkeypatch):
    model = tiny_model("llama")
    model.hf.save_pretrained(tmp_path / "gpt2-small")
    model.tokenizer.save_pretrained(tmp_path / "gpt2-small")
    monkeypatch.chdir(tmp_path)
    assert load_model("gpt2-small", device="cpu").fingerprint() == model.fingerprint()
    assert load_skeleton("gpt2-small").n_layers == model.n_layers


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("owner/gpt2-small", "owner/gpt2-small"),
        ("no/such/folder", "no/such/folder"),
        ("gpt2", "gpt2"),
        ("gpt2-small", "gpt2"),
    ],
)
def test_transformer_lens_is_not_imported_to_find_out(ref, name):
    code = (
        "import sys; from saesteer.models.aliases import hub_name;"
        f"print(hub_name({ref!r}), 'transformer_lens' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{name} False"
