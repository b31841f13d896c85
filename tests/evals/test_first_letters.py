"""First letters: words come from the vocabulary, and each letter is judged against the others."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
import transformers

from saesteer.errors import DataError
from saesteer.evals.first_letters import PROMPT, first_letters, vocabulary_words
from saesteer.models import Model, layout_of


def wordy_model() -> Model:
    """A random model whose tokenizer knows 32 words on each of `b` and `k`, and 5 on `z`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    ends = ["".join(pair) for pair in itertools.product("aeio", "lmnprstv")]
    words = [f"b{end}" for end in ends] + [f"k{end}" for end in ends]
    words += [f"z{end}" for end in ends[:5]]
    pieces = ["<unk>", "<eos>", *(f"Ġ{word}" for word in words), "Ġbal1", "Ġda", "bare"]
    raw = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", eos_token="<eos>"
    )
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(pieces), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    hf = transformers.LlamaForCausalLM(config).eval()
    letters = torch.tensor([ord(p[1]) if p[0] == "Ġ" else 0 for p in pieces])
    hf.model.embed_tokens.weight.data[:, 3] += (letters == ord("b")) * 0.3
    hf.model.embed_tokens.weight.data[:, 4] += (letters == ord("k")) * 0.3
    return Model(hf, tokenizer, "wordy", layout_of(hf))


def test_words_are_whole_lower_case_tokens_behind_a_space():
    words = vocabulary_words(wordy_model())
    assert len(words) == 69
    assert {"bal", "kal", "zal"} <= set(words)
    assert not {"bal1", "da", "bare"} & set(words)


def test_letters_with_enough_words_are_judged(tiny_sae):
    model = wordy_model()
    w_enc = torch.zeros(32, 96)
    w_enc[3, 10] = w_enc[4, 20] = 1.0
    sae = replace(tiny_sae(model, "resid_pre.0"), w_enc=w_enc, b_enc=torch.zeros(96))
    sae = replace(sae, b_dec=torch.zeros(32), threshold=torch.full((96,), 0.15))
    found = first_letters(model, sae, words_per_letter=32)
    assert [(letter.concept, letter.main) for letter in found.letters] == [
        ("b", (10,)),
        ("k", (20,)),
    ]
    assert all(4 <= letter.n_judged <= 6 for letter in found.letters)
    judged = sum(letter.n_judged for letter in found.letters)
    report = found.to_dict()
    assert report["n_judged"] == judged
    silent = sum(letter.silent * letter.n_judged for letter in found.letters)
    assert report["silent"] == pytest.approx(silent / judged)


def test_a_vocabulary_without_words_is_refused(tiny_model, tiny_sae):
    model = tiny_model("llama")
    with pytest.raises(DataError, match="too few words of one token .* 0 letters have 30"):
        first_letters(model, tiny_sae(model, "resid_post.1"))


@pytest.mark.full
@pytest.mark.real
def test_absorption_is_found_in_the_shipped_sae(real_model):
    from saesteer.saes import load_sae

    assert PROMPT.endswith("\n")
    sae = load_sae("smollm2-135m-instruct/resid_post.9")
    found = first_letters(real_model, sae, words_per_letter=60)
    assert len(found.letters) > 20
    assert 0.02 < found.mean("silent") < 0.5
    assert found.mean("absorption_fraction") > 0.01
