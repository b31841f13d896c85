"""The effect of adding a feature: against the same sum done by hand, and its signs."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from saesteer.data.contrast import Contrast, Example
from saesteer.errors import ContrastError, DataError, FeatureError, SaeError
from saesteer.features.activations import prefix_ids, text_ids
from saesteer.features.effects import (
    SCORED_TOKENS,
    _cut_texts,
    change_effects,
    common_length,
    logit_effects,
)
from saesteer.features.output_score import output_scores
from saesteer.models import install

CONTRAST = Contrast.from_texts(
    ["what a fine day", "it was lovely, simply lovely food", "good"],
    ["what a poor day", "it was awful stuff to eat", "bad!"],
)


def by_hand(model: Any, sae: Any, feature: int, dose: float) -> list[float]:
    """Each text alone, whole and unpadded, edited by plain arithmetic; one value for each pair."""
    unit = sae.w_dec[feature] / sae.w_dec[feature].norm()

    def push(resid: torch.Tensor) -> torch.Tensor:
        return resid + dose * resid.norm(dim=-1, keepdim=True) * unit

    prefix = prefix_ids(model)
    values: list[float] = []
    for pair in CONTRAST.pairs():
        own = [model.tokenizer(e.text, add_special_tokens=False)["input_ids"] for e in pair]
        shared = next(i for i, (a, b) in enumerate(zip(*own, strict=False)) if a != b)
        start = max(len(prefix) + shared, 1)
        means: list[float] = []
        for text in own:
            ids = torch.tensor([[*prefix, *text]])
            handle = install(model.layout.point(sae.site), push)
            with torch.no_grad():
                log_probs = model.hf(ids).logits[0].log_softmax(-1)
            handle.remove()
            stop = min(start + SCORED_TOKENS, ids.shape[1])
            picked = [log_probs[i - 1, ids[0, i]].item() for i in range(start, stop)]
            means.append(sum(picked) / len(picked))
        values.append(means[0] - means[1])
    return values


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_the_effect_is_the_sum_done_by_hand(tiny_model: Any, tiny_sae: Any, arch: str) -> None:
    model = tiny_model(arch)
    sae = tiny_sae(model, "resid_post.1")
    got = logit_effects(model, sae, CONTRAST, [3, 8], dose=0.5, batch_size=4)
    for effect, feature in zip(got, (3, 8), strict=True):
        pairs = zip(by_hand(model, sae, feature, 0.5), by_hand(model, sae, 0, 0.0), strict=True)
        change = torch.tensor([steered - plain for steered, plain in pairs])
        assert effect.mean == pytest.approx(change.mean().item(), abs=1e-4)
        assert effect.error == pytest.approx(change.std().item() / 3**0.5, abs=1e-4)
        assert effect.n_pairs == 3
    assert max(abs(effect.mean) for effect in got) > 1e-2


def test_no_dose_has_no_effect(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    effects = logit_effects(model, tiny_sae(model, "resid_post.1"), CONTRAST, [0, 1], dose=0.0)
    assert [(e.mean, e.error) for e in effects] == [(0.0, 0.0)] * 2


def test_swapping_labels_turns_the_effect_around(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    swapped = Contrast(tuple(replace(e, label=1 - e.label) for e in CONTRAST.examples))
    (there,), (back,) = (logit_effects(model, sae, c, [5]) for c in (CONTRAST, swapped))
    assert there.mean == pytest.approx(-back.mean, rel=1e-4)  # the batches differ
    assert there.error == pytest.approx(back.error)


def test_small_opposite_directions_have_opposite_effects(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    rows = sae.w_dec.clone()
    rows[1] = -rows[0]
    plus, minus = logit_effects(model, replace(sae, w_dec=rows), CONTRAST, [0, 1], dose=0.003)
    assert plus.mean == pytest.approx(-minus.mean, rel=0.2)


def test_the_effect_does_not_depend_on_the_length_of_the_decoder_row(
    tiny_model: Any, tiny_sae: Any
) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    (short,), (long,) = (
        logit_effects(model, s, CONTRAST, [5]) for s in (sae, replace(sae, w_dec=sae.w_dec * 8))
    )
    assert short.mean == pytest.approx(long.mean, abs=1e-5)


def test_texts_without_counterparts_are_compared_by_order(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    lonely = Contrast(
        tuple(replace(e, pair=f"{e.label}{i}") for i, e in enumerate(CONTRAST.examples))
    )
    assert logit_effects(model, sae, lonely, [4]) == logit_effects(model, sae, CONTRAST, [4])


def test_scoring_starts_where_the_texts_part(tiny_model: Any) -> None:
    """Behind one prompt equal first words are context; behind different prompts they are scored."""
    model = tiny_model("llama")
    for prompt, is_context in (("say it: ", True), ("hold it: ", False)):
        sides = (Example("yes the sea", 1, prompt="say it: "), Example("yes no", 0, prompt=prompt))
        for side, (ids, start) in zip(sides, _cut_texts(model, [sides]), strict=True):
            _, n_prefix = text_ids(model, side)
            assert (start > n_prefix) == is_context
            assert len(ids) <= start + SCORED_TOKENS


def test_one_pair_has_no_error(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    one = Contrast.from_texts(["the sea"], ["the sun"])
    (effect,) = logit_effects(model, tiny_sae(model, "resid_post.1"), one, [4])
    assert (effect.n_pairs, effect.error) == (1, None)


def test_hooks_are_gone_after_success_and_after_failure(
    tiny_model: Any, tiny_sae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    module = model.layout.point(sae.site).module
    before = len(module._forward_hooks)
    logit_effects(model, sae, CONTRAST, [0])
    assert len(module._forward_hooks) == before
    calls = iter(range(100))
    real = F.cross_entropy

    def fail(*args: Any, **kwargs: Any) -> Any:
        if next(calls) > 0:
            raise RuntimeError("broken on purpose")
        return real(*args, **kwargs)

    monkeypatch.setattr("saesteer.features.effects.F.cross_entropy", fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        logit_effects(model, sae, CONTRAST, [0])
    assert len(module._forward_hooks) == before


def test_common_length_leaves_a_token_to_score() -> None:
    assert common_length([1, 2, 3], [1, 2, 4]) == 2
    assert common_length([1, 2, 3], [9, 2, 3]) == 0
    assert common_length([1, 2], [1, 2, 3]) == 1
    assert common_length([1, 2], [1, 2]) == 1


def test_errors(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("gpt2")
    sae = tiny_sae(model, "resid_post.1")
    with pytest.raises(FeatureError, match="feature 9999 does not exist"):
        logit_effects(model, sae, CONTRAST, [9999])
    for read in (logit_effects, output_scores):
        given = (CONTRAST, [1]) if read is logit_effects else ([1],)
        with pytest.raises(SaeError, match="a str is no SAE; read it"):
            inspect.unwrap(read)(model, "name", *given)
    for given in ("sentiment", [("a", "b")], None):
        with pytest.raises(ContrastError, match="is no contrast"):
            inspect.unwrap(logit_effects)(model, sae, given, [1])
        with pytest.raises(ContrastError, match="is no contrast"):
            inspect.unwrap(change_effects)(model, given, [])
    one, other = [t for t in ("the", "a", "t") if len(model.tokenizer(t)["input_ids"]) == 1][:2]
    with pytest.raises(DataError, match="long enough to be scored"):
        logit_effects(model, sae, Contrast.from_texts([one], [other]), [0])
