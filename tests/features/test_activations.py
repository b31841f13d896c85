"""Reading texts: the text's own tokens, in order, as if each text were alone."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from saesteer.data.contrast import Contrast, Example
from saesteer.errors import ConfigError, DataError, SiteError
from saesteer.features import (
    find_features,
    logit_effects,
    max_activations,
    output_scores,
    show_feature,
    top_features,
)
from saesteer.features.activations import (
    kept_tokens,
    pooled_activations,
    prefix_ids,
    read_activations,
    text_batches,
    text_ids,
)
from saesteer.models import TokenBatch, install, record
from saesteer.models.limits import check_count
from saesteer.models.sites import Site

SITE = Site(1, "resid_post")
TEXTS = ["a small boat", "it rained all day and then some more", "no", "the sea was calm"]


def ids_of(model: Any, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def alone(model: Any, ids: list[int]) -> torch.Tensor:
    row = torch.tensor([ids])
    return record(model, TokenBatch(row, torch.ones_like(row, dtype=torch.bool)), [SITE])[SITE][0]


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_a_batch_reads_as_each_text_alone(tiny_model: Any, arch: str) -> None:
    model = tiny_model(arch)
    prefix = prefix_ids(model)
    for text, got in zip(TEXTS, read_activations(model, TEXTS, SITE, batch_size=3), strict=True):
        expected = alone(model, [*prefix, *ids_of(model, text)])[len(prefix) :]
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_prompt_is_read_by_the_model_and_not_returned(tiny_model: Any) -> None:
    model = tiny_model("llama")
    example = Example("yes it is", 1, prompt="is it? ")
    (got,) = read_activations(model, [example], SITE)
    ids = [*prefix_ids(model, "is it? "), *ids_of(model, "yes it is")]
    n_text = len(ids_of(model, "yes it is"))
    torch.testing.assert_close(got, alone(model, ids)[-n_text:], rtol=1e-4, atol=1e-5)
    (bare,) = read_activations(model, ["yes it is"], SITE)
    assert bare.shape == got.shape
    assert not torch.allclose(bare, got, atol=1e-3)


def test_prompt_and_text_are_parted_once(tiny_model: Any) -> None:
    model = tiny_model("llama")
    plain, parted = (
        read_activations(model, [Example("yes", 1, prompt=prompt)], SITE)[0]
        for prompt in ("is it?", "is it?\n")
    )
    torch.testing.assert_close(plain, parted)


def test_special_tokens_are_left_out(tiny_model: Any) -> None:
    model = tiny_model("llama")
    special = model.tokenizer.eos_token
    (got,) = read_activations(model, [f"ab{special}cd"], SITE)
    n_own = len([i for i in ids_of(model, f"ab{special}cd") if i not in model.special_ids.tolist()])
    assert n_own < len(ids_of(model, f"ab{special}cd"))
    assert len(got) == n_own


@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_prompt_that_opens_with_bos_gets_no_second_one(tiny_model: Any, adds_bos: bool) -> None:
    model = copy.copy(tiny_model("llama"))
    model.tokenizer = copy.deepcopy(model.tokenizer)
    bos, bos_id = model.tokenizer.bos_token, model.tokenizer.bos_token_id
    if adds_bos:
        opening = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, bos_id)])
        model.tokenizer.backend_tokenizer.post_processor = opening
    assert prefix_ids(model, "hi").count(bos_id) == adds_bos
    assert prefix_ids(model, f"{bos}hi").count(bos_id) == 1


@pytest.mark.parametrize("prompt", ["[INST] hi [/INST]", "<eos>[INST] hi [/INST]"])
def test_a_rendered_chat_is_left_as_its_template_wrote_it(tiny_model: Any, prompt: str) -> None:
    model = copy.copy(tiny_model("llama"))
    model.tokenizer = copy.deepcopy(model.tokenizer)
    bos, bos_id = model.tokenizer.bos_token, model.tokenizer.bos_token_id
    opening = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, bos_id)])
    model.tokenizer.backend_tokenizer.post_processor = opening
    ids, n_before = text_ids(model, Example("yes", 1, prompt=prompt))
    if rendered := prompt.startswith("<eos>"):
        assert ids[:n_before] == ids_of(model, prompt)
    else:
        assert ids[:n_before] == [bos_id, *ids_of(model, f"{prompt}\n")]
    assert (bos_id in ids) != rendered


def test_outliers_can_be_dropped(tiny_model: Any) -> None:
    model = tiny_model("llama")

    def blow_up(resid: torch.Tensor) -> torch.Tensor:
        resid = resid.clone()
        resid[:, 4] *= 1000
        return resid

    handle = install(model.layout.point(SITE), blow_up)
    try:
        (whole,) = read_activations(model, ["a small boat"], SITE)
        (clean,) = read_activations(model, ["a small boat"], SITE, drop_outliers=True)
    finally:
        handle.remove()
    assert len(clean) == len(whole) - 1
    loud = whole.norm(dim=-1).argmax()
    torch.testing.assert_close(clean, torch.cat([whole[:loud], whole[loud + 1 :]]))


def test_padding_has_no_say_in_what_is_an_outlier(tiny_model: Any) -> None:
    model = tiny_model("llama")
    (batch,) = text_batches(model, [TEXTS[1], "no", "no", "no"])
    resid = record(model, batch.tokens, [SITE])[SITE]
    padding = ~batch.tokens.attention_mask
    assert padding.sum() > batch.own.sum()
    assert torch.equal(kept_tokens(resid, batch), batch.own)
    for norm in (0.0, 1e4):
        resid[padding] = norm
        assert torch.equal(kept_tokens(resid, batch), batch.own)


def test_activations_are_fp32_from_any_dtype(tiny_model: Any) -> None:
    model = copy.deepcopy(tiny_model("llama"))
    model.hf.to(torch.bfloat16)
    assert read_activations(model, ["a boat"], SITE)[0].dtype == torch.float32


def test_errors_name_the_text_and_the_limit(tiny_model: Any) -> None:
    model = copy.deepcopy(tiny_model("llama"))
    with pytest.raises(DataError, match=r"text 1 \(''\) has no tokens; give at least one word"):
        read_activations(model, ["fine", ""], SITE)
    model.hf.config.max_position_embeddings = 8
    with pytest.raises(DataError, match=r"reads at most 8\. Cut it into shorter texts"):
        read_activations(model, ["far too long a text for eight positions"], SITE)
    with pytest.raises(SiteError, match="layer 40 does not exist"):
        read_activations(model, ["fine"], "resid_post.40")


@pytest.mark.parametrize("pool", ["mean", "max", "last"])
def test_pooled_rows_are_the_texts_own_tokens_pooled(tiny_model: Any, pool: Any) -> None:
    model = tiny_model("llama")
    sites = [SITE, Site(2, "neurons"), Site(0, "head_out", 1)]
    found = pooled_activations(model, TEXTS, sites, pool, batch_size=3)
    assert list(found) == sites
    for site in sites:
        rows = read_activations(model, TEXTS, site, batch_size=3, drop_outliers=True)
        ways = {"mean": lambda r: r.mean(0), "max": lambda r: r.amax(0), "last": lambda r: r[-1]}
        expected = torch.stack([ways[pool](row) for row in rows])
        torch.testing.assert_close(found[site], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_last", [2, 100])
def test_pooling_may_keep_to_the_last_tokens_and_count_positive_ones(
    tiny_model: Any, n_last: int
) -> None:
    model = tiny_model("llama")
    tokens = [rows[-n_last:] for rows in read_activations(model, TEXTS, SITE, drop_outliers=True)]
    for pool, expected in (
        ("mean", [rows.mean(0) for rows in tokens]),
        ("rate", [(rows > 0).float().mean(0) for rows in tokens]),
    ):
        got = pooled_activations(model, TEXTS, [SITE], pool, n_last=n_last)[SITE]
        torch.testing.assert_close(got, torch.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"pool": "avg"}, "pool 'avg' does not exist; expected mean, max, last, rate"),
        ({"n_last": 0}, "n_last is 0, expected 1 or more"),
    ],
)
def test_a_way_of_pooling_that_does_not_exist(tiny_model: Any, options: Any, why: str) -> None:
    pool = inspect.unwrap(pooled_activations)  # without the tests' own check of types
    with pytest.raises(ConfigError, match=why):
        pool(tiny_model("llama"), TEXTS, [SITE], **options)


def test_a_text_of_outliers_alone_is_pooled_all_the_same(tiny_model: Any) -> None:
    model = tiny_model("llama")
    plain = pooled_activations(model, TEXTS, [SITE])[SITE]
    by_length = sorted(range(len(TEXTS)), key=lambda row: -len(ids_of(model, TEXTS[row])))
    scale = torch.ones(len(TEXTS), 1, 1)
    scale[by_length.index(2)] = 1000.0  # every token of the shortest text
    handle = install(model.layout.point(SITE), lambda resid: resid * scale)
    try:
        got = pooled_activations(model, TEXTS, [SITE])[SITE]
    finally:
        handle.remove()
    torch.testing.assert_close(got[2], 1000 * plain[2], rtol=1e-3, atol=1e-3)


def test_nan_is_an_error_and_not_a_statistic(tiny_model: Any) -> None:
    model = tiny_model("llama")
    handle = install(model.layout.point(SITE), lambda resid: resid / 0.0)
    try:
        for read in (read_activations, lambda m, t, s: pooled_activations(m, t, [s])):
            with pytest.raises(DataError, match="gives NaN or infinity at resid_post.1"):
                read(model, TEXTS, SITE)
    finally:
        handle.remove()


def test_one_text_may_stand_for_a_list_of_one(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, SITE)
    for one in (TEXTS[0], Example(TEXTS[0], 1)):
        for read in (
            lambda texts: read_activations(model, texts, SITE),
            lambda texts: [pooled_activations(model, texts, [SITE])[SITE]],
            lambda texts: [max_activations(model, sae, texts)],
        ):
            for got, expected in zip(read(one), read([one]), strict=True):
                assert torch.equal(got, expected)
    assert show_feature(model, sae, 0, TEXTS[0]) == show_feature(model, sae, 0, TEXTS[:1])


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_no_texts_is_refused_everywhere(
    tiny_model: Any, tiny_sae: Any, size: int
) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, SITE)
    contrast = Contrast.from_texts(TEXTS[:2], TEXTS[2:])
    for call in (
        lambda: read_activations(model, TEXTS, SITE, size),
        lambda: pooled_activations(model, TEXTS, [SITE], batch_size=size),
        lambda: find_features(model, sae, contrast, batch_size=size),
        lambda: max_activations(model, sae, TEXTS, batch_size=size),
        lambda: logit_effects(model, sae, contrast, [0], batch_size=size),
        lambda: output_scores(model, sae, [0], batch_size=size),
        lambda: show_feature(model, sae, 0, TEXTS, batch_size=size),
    ):
        with pytest.raises(ConfigError, match=f"batch_size is {size}, expected 1 or more"):
            call()


@pytest.mark.parametrize("count", ["4", None, 2.5])
def test_a_count_is_a_whole_number(count: Any) -> None:
    with pytest.raises(ConfigError, match=f"top is {count!r}, expected a whole number"):
        inspect.unwrap(check_count)("top", count)  # without the tests' own check of types


@pytest.mark.parametrize("given", [[{"role": "user", "content": "Hi"}], [["a", "b"]], {"a": 1}, 3])
def test_what_is_no_text_is_refused_in_one_line(tiny_model: Any, tiny_sae: Any, given: Any) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, SITE)
    for read in (read_activations, pooled_activations):
        sites = SITE if read is read_activations else [SITE]
        with pytest.raises(DataError, match="give a text or an Example, or a list of them"):
            inspect.unwrap(read)(model, given, sites)
    with pytest.raises(DataError, match="give a text or an Example, or a list of them"):
        inspect.unwrap(max_activations)(model, sae, given)
    with pytest.raises(DataError, match="is no text; give one string"):
        inspect.unwrap(top_features)(model, sae, given)
