"""First letters: words come from the vocabulary, and each letter is judged against the others."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from saesteer.data.contrast import Example
from saesteer.errors import DataError
from saesteer.evals.first_letters import PROMPT, first_letters, vocabulary_words
from saesteer.features.activations import text_ids
from saesteer.models import Model, layout_of

ENDS = ["".join(pair) for pair in itertools.product("aeio", "lmnprstv")]
WORDS = [f"b{end}" for end in ENDS] + [f"k{end}" for end in ENDS] + [f"z{end}" for end in ENDS[:5]]


def pieces_with(space: str) -> list[str]:
    """The words behind a space as a tokenizer writes it, and others that are none."""
    return ["<unk>", "<eos>", *(f"{space}{word}" for word in WORDS), f"{space}bal1", f"{space}da",
            "bare"]  # fmt: skip


def byte_level() -> Tokenizer:
    """As of GPT-2: a space is part of the word behind it, written and read as Ġ."""
    pieces = {piece: i for i, piece in enumerate(pieces_with("Ġ"))}
    raw = Tokenizer(models.WordLevel(pieces, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return raw


def sentence_piece() -> Tokenizer:
    """As of Llama 2 and Mistral: every text gets a space in front, and decoding takes it off."""
    pieces = [(piece, -9.0) for piece in pieces_with("▁")]
    pieces += [(letter, -20.0) for letter in ("▁", *"abcdefghijklmnopqrstuvwxyz")]
    raw = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return raw


def metaspace() -> Tokenizer:
    """As of later Mistrals: a text gets a space in front where it has none."""
    raw = sentence_piece()
    raw.normalizer = normalizers.Sequence([])
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return raw


KINDS = pytest.mark.parametrize("make", [byte_level, sentence_piece, metaspace])


def wordy_model(make: Callable[[], Tokenizer] = byte_level) -> Model:
    """A random model whose tokenizer knows 32 words on each of `b` and `k`, and 5 on `z`."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=make(), unk_token="<unk>", eos_token="<eos>"
    )
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    hf = transformers.LlamaForCausalLM(config).eval()
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    letters = torch.tensor([ord(p[1]) if p[0] in "Ġ▁" and p[1:] else 0 for p in pieces])
    hf.model.embed_tokens.weight.data[:, 3] += (letters == ord("b")) * 0.3
    hf.model.embed_tokens.weight.data[:, 4] += (letters == ord("k")) * 0.3
    return Model(hf, tokenizer, "wordy", layout_of(hf))


@KINDS
def test_words_are_whole_lower_case_tokens_behind_a_space(make):
    model = wordy_model(make)
    words = vocabulary_words(model)
    assert sorted(words) == sorted(WORDS)
    for word, text in words.items():
        assert text.strip() == word
        ids, n_before = text_ids(model, Example(text, 1, prompt=PROMPT))
        assert model.tokenizer.convert_ids_to_tokens(ids[n_before:])[0][1:] == word
        assert len(ids) == n_before + 1


@KINDS
def test_letters_with_enough_words_are_judged(tiny_sae, make):
    model = wordy_model(make)
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
