"""Pooling reads the text's own tokens and no others; the twin is as sparse and knows nothing."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from saesteer.data import Contrast
from saesteer.data.contrast import Example
from saesteer.errors import ContrastError, DataError
from saesteer.evals.concept_eval import evaluate_concepts, read_concepts
from saesteer.evals.pooled import mean_l0, pool_concepts, random_twin, twin_sample
from saesteer.features.activations import read_activations
from saesteer.models import Site

SITE = "resid_post.2"
WORDS = ["rain", "town", "sea", "sun", "the sun", "in the sea", "a road", "the hill"]


def contrast(word: str = "zz", n: int = 24) -> Contrast:
    """Texts with and without a word, behind prompts, in rounds of splits."""
    splits = ("train", "train", "validation", "test")
    rows = []
    for i in range(n):
        text = f"{WORDS[i % 8]} {i}"
        rows.append(Example(f"{word} {text} {word}", 1, splits[i % 4], str(i), "a prompt"))
        rows.append(Example(text, 0, splits[i % 4], str(i), "a prompt"))
    return Contrast(tuple(rows), name=word)


@pytest.fixture(scope="module")
def pair(tiny_model, tiny_sae):
    model = tiny_model("llama")
    return model, tiny_sae(model, SITE)


def test_rows_are_means_over_the_texts_own_tokens(pair):
    model, sae = pair
    texts = contrast()
    twin = random_twin(sae, twin_sample(model, sae, [texts]))
    seen = []
    pooled = pool_concepts(
        model, sae, twin, [texts, texts], batch_size=5, progress=lambda *at: seen.append(at)
    )[1]
    own = read_activations(model, texts.examples, SITE, drop_outliers=True, batch_size=5)
    for row, tokens in enumerate(own):
        torch.testing.assert_close(pooled.resid[row], tokens.mean(0), rtol=1e-4, atol=1e-5)
        for rows, coder in ((pooled.latents, sae), (pooled.control, twin)):
            latents = coder.encode(tokens)
            torch.testing.assert_close(rows[row], latents.mean(0), rtol=1e-4, atol=1e-4)
    assert pooled.positive.tolist() == [e.label == 1 for e in texts.examples]
    assert seen[-1] == (96, 96)
    assert all(a < b for (a, _), (b, _) in itertools.pairwise(seen))


def test_a_pooled_text_ablated_is_the_ablated_text_pooled(pair):
    model, sae = pair
    texts = contrast()
    pooled = pool_concepts(model, sae, None, [texts])[0]
    tokens = read_activations(model, texts.examples, SITE, drop_outliers=True)[0]
    latents = sae.encode(tokens)
    gone = [int(i) for i in latents.mean(0).topk(3).indices]
    edited = tokens - latents[:, gone] @ sae.w_dec[gone]
    changed = pooled.resid[0] - pooled.latents[0, gone] @ sae.w_dec[gone]
    torch.testing.assert_close(changed, edited.mean(0), rtol=1e-4, atol=1e-4)


def test_a_text_of_nothing_but_outliers_is_left_out(pair):
    model, sae = pair
    sae = replace(sae, site=Site(0, "resid_pre"))
    odd = Contrast((*contrast().examples, Example("Q", 1, "train")))
    weight = model.hf.model.embed_tokens.weight
    ids = model.tokenizer("Q", add_special_tokens=False)["input_ids"]
    before = weight.data.clone()
    weight.data[ids] *= 1000
    try:
        pooled = pool_concepts(model, sae, None, [odd], batch_size=64)[0]
    finally:
        weight.data.copy_(before)
    assert len(pooled.resid) == len(pooled.splits) == len(pooled.positive) == len(odd) - 1
    assert bool(pooled.resid.any(1).all())


def test_the_twin_is_as_sparse_and_looks_elsewhere(pair):
    model, sae = pair
    resid = twin_sample(model, sae, [contrast()])
    twin, other = random_twin(sae, resid), random_twin(sae, resid, seed=1)
    assert mean_l0(twin, resid) == pytest.approx(round(mean_l0(sae, resid)), rel=0.05)
    assert twin.w_enc.shape == sae.w_enc.shape
    assert torch.equal(twin.w_enc, random_twin(sae, resid).w_enc)
    assert not torch.equal(twin.w_enc, other.w_enc)
    assert twin.activation == "jumprelu"


def test_a_concept_in_the_text_is_found_by_the_whole_score(pair):
    scores = evaluate_concepts(*pair, [contrast("zz"), contrast("the")])
    found = scores.to_dict()
    assert [row["concept"] for row in found["probing"]] == ["zz", "the"]
    assert found["probing"][0]["dense"]["accuracy"] > 0.9
    assert found["control_l0"] == pytest.approx(found["l0"], rel=0.2)
    assert len(found["perturbation"][0]["falls"]) == len(found["absorption"]) == 2


def test_a_split_without_both_labels_is_refused(tmp_path, pair):
    path = tmp_path / "two.jsonl"
    path.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n')
    with pytest.raises(ContrastError, match=r"two.jsonl \(validation split\): it has no examples"):
        read_concepts([path])
    two = Contrast(tuple(e for e in contrast().examples if e.split != "test" or e.label))
    with pytest.raises(ContrastError, match=r"\(test split\): no text of label 0 has tokens"):
        pool_concepts(*pair, None, [two])


def test_without_names_all_built_in_concepts_are_read():
    names = [concept.name for concept in read_concepts([])]
    assert names == ["ocean", "politeness", "refusal", "sentiment"]


def test_a_text_without_tokens_is_refused(pair):
    odd = Contrast((*contrast().examples, Example("<eos>", 1, "train")))
    with pytest.raises(DataError, match="has no tokens"):
        evaluate_concepts(*pair, [odd])
