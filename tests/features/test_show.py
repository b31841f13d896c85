"""The feature card: streaming figures equal those of the whole text at once."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saesteer.data.text import iterate_texts
from saesteer.errors import DataError, FeatureError
from saesteer.features import show
from saesteer.features.activations import read_activations
from saesteer.features.show import nearest_features, show_feature, show_features

TEXTS = [f"{a} {b} at sea" for a in ("a small", "one old", "this big") for b in ("boat", "ship")]


@pytest.fixture
def pair(tiny_model: Any, tiny_sae: Any) -> tuple[Any, Any]:
    model = tiny_model("llama")
    return model, tiny_sae(model, "resid_post.1")


def busy_feature(model: Any, sae: Any) -> tuple[int, list[torch.Tensor]]:
    """The feature that fires on most tokens but not on all, and every text's latents."""
    latents = [sae.encode(h) for h in read_activations(model, TEXTS, sae.site)]
    share = (torch.cat(latents) > 0).float().mean(0)
    return int(torch.where(share < 1, share, 0).argmax()), latents


def test_figures_are_those_of_all_tokens(pair: tuple[Any, Any]) -> None:
    model, sae = pair
    index, latents = busy_feature(model, sae)
    column = torch.cat(latents)[:, index]
    firing = column[column > 0]
    card = show_feature(model, sae, index, TEXTS, batch_size=4)
    assert card.n_tokens == len(column)
    assert card.density == pytest.approx(len(firing) / len(column))
    assert card.max_activation == pytest.approx(firing.max().item(), rel=1e-4)
    assert card.mean_activation == pytest.approx(firing.mean().item(), rel=1e-4)
    assert sum(card.histogram.counts) == len(firing)


def test_passages_are_the_highest_peaks(pair: tuple[Any, Any]) -> None:
    model, sae = pair
    index, latents = busy_feature(model, sae)
    expected = sorted((z[:, index].max().item() for z in latents), reverse=True)[:3]
    card = show_feature(model, sae, index, TEXTS, passages=3, batch_size=2)
    peaks = [p.activations[p.peak] for p in card.passages]
    assert peaks == pytest.approx([p for p in expected if p > 0], rel=1e-4)
    for passage in card.passages:
        assert max(passage.activations) == passage.activations[passage.peak]
        assert "".join(passage.tokens).strip() in TEXTS[passage.text]
        assert len(passage.tokens) == len(passage.activations)


def test_of_many_passages_the_highest_are_kept(pair: tuple[Any, Any]) -> None:
    model, sae = pair
    texts = [f"{text} number {n}" for n in range(10) for text in TEXTS]
    index, _ = busy_feature(model, sae)
    peaks = sorted(
        (sae.encode(h)[:, index].max().item() for h in read_activations(model, texts, sae.site)),
        reverse=True,
    )
    card = show_feature(model, sae, index, texts, passages=7, batch_size=8)
    assert [p.activations[p.peak] for p in card.passages] == pytest.approx(peaks[:7], rel=1e-4)


def test_long_texts_are_cut_into_windows_and_every_token_is_read(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, sae = pair
    monkeypatch.setattr(show, "WINDOW", 5)
    text = "a small boat on a large and very quiet sea"
    card = show_feature(model, sae, 0, [text])
    assert card.n_tokens == len(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_several_features_at_once_equal_one_at_a_time(pair: tuple[Any, Any]) -> None:
    model, sae = pair
    for card in show_features(model, sae, [3, 9], TEXTS):
        single = show_feature(model, sae, card.index, TEXTS)
        assert [(p.text, p.peak, p.tokens) for p in card.passages] == [
            (p.text, p.peak, p.tokens) for p in single.passages
        ]
        assert card.histogram == single.histogram
        assert [n.index for n in card.nearest] == [n.index for n in single.nearest]
        assert [t.token for t in card.promoted] == [t.token for t in single.promoted]
        assert card.mean_activation == pytest.approx(single.mean_activation, rel=1e-4)


def test_the_stream_is_read_no_further_than_asked(pair: tuple[Any, Any]) -> None:
    model, sae = pair
    taken = itertools.count()

    def endless() -> Iterator[str]:
        while True:
            next(taken)
            yield "a small boat"

    card = show_feature(model, sae, 0, endless(), max_tokens=30, batch_size=2)
    assert 30 <= card.n_tokens < 60
    assert next(taken) < 8


def test_paths_share_the_tokens_that_are_read(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, sae = pair
    monkeypatch.setattr(show, "WINDOW", 8)
    for name, word in (("a.txt", "boat "), ("b.txt", "ship ")):
        (tmp_path / name).write_text(word * 100)
    index, _ = busy_feature(model, sae)
    texts = iterate_texts([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")])
    loud = replace(sae, threshold=torch.full_like(sae.threshold, -1e9))
    card = show_feature(model, loud, index, texts, max_tokens=40, passages=99, batch_size=2)
    seen = ["".join(passage.tokens) for passage in card.passages]
    assert any("boat" in text for text in seen)
    assert any("ship" in text for text in seen)
    assert {passage.text for passage in card.passages} == {0, 1}


def test_progress_counts_the_tokens_that_were_asked_for(pair: tuple[Any, Any]) -> None:
    model, sae = pair
    told: list[tuple[int, int]] = []
    card = show_feature(
        model, sae, 0, TEXTS * 9, max_tokens=60, batch_size=2,
        progress=lambda *at: told.append(at),
    )  # fmt: skip
    assert told[-1] == (60, 60)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert card.n_tokens >= 60


def test_a_topk_sae_is_read_through_its_full_encode(pair: tuple[Any, Any]) -> None:
    model, sae = pair
    topk = replace(sae, activation="topk", k=4)
    latents = torch.cat([topk.encode(h) for h in read_activations(model, TEXTS, sae.site)])
    index = int((latents > 0).sum(0).argmax())
    card = show_feature(model, topk, index, TEXTS)
    assert card.density == pytest.approx((latents[:, index] > 0).float().mean().item())


def test_the_nearest_feature_is_the_planted_twin(pair: tuple[Any, Any]) -> None:
    _, sae = pair
    rows = sae.w_dec.clone()
    rows[7] = rows[2] * 3
    (near,) = nearest_features(replace(sae, w_dec=rows), [2], n=4)
    assert near[0].index == 7
    assert near[0].cosine == pytest.approx(1.0, abs=1e-5)
    assert 2 not in [n.index for n in near]
    assert [n.cosine for n in near] == sorted((n.cosine for n in near), reverse=True)


def test_a_silent_feature_has_an_empty_card(pair: tuple[Any, Any]) -> None:
    model, sae = pair
    silent = replace(sae, threshold=torch.full_like(sae.threshold, 1e9))
    card = show_feature(model, silent, 0, TEXTS)
    assert (card.density, card.max_activation, card.mean_activation) == (0.0, 0.0, 0.0)
    assert (card.passages, card.histogram.counts) == ((), ())
    assert card.promoted
    assert json.loads(json.dumps(card.to_dict()))["index"] == 0


def test_errors(pair: tuple[Any, Any]) -> None:
    model, sae = pair
    with pytest.raises(FeatureError, match=f"feature {sae.d_sae} does not exist"):
        show_feature(model, sae, sae.d_sae, TEXTS)
    for nothing in ([], [""]):
        with pytest.raises(DataError, match="the texts have no tokens"):
            show_feature(model, sae, 0, nothing)
