"""The effect of adding a feature: against the same sum done by hand, and its signs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from saesteer.data.contrast import Contrast
from saesteer.errors import DataError, FeatureError
from saesteer.features.activations import prefix_ids
from saesteer.features.effects import logit_effects, second_half
from saesteer.models import install

CONTRAST = Contrast.from_texts(
    ["what a fine day", "lovely, simply lovely food", "good"],
    ["what a poor day", "awful, simply awful stuff to eat", "bad!"],
)


def by_hand(model: Any, sae: Any, feature: int, dose: float) -> float:
    """Each text alone, unpadded, edited by plain arithmetic."""
    unit = sae.w_dec[feature] / sae.w_dec[feature].norm()

    def push(resid: torch.Tensor) -> torch.Tensor:
        return resid + dose * resid.norm(dim=-1, keepdim=True) * unit

    means: dict[int, list[float]] = {0: [], 1: []}
    prefix = prefix_ids(model)
    for example in CONTRAST.examples:
        own = model.tokenizer(example.text, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[*prefix, *own]])
        scored = list(range(len(prefix) + len(own) // 2, len(prefix) + len(own)))
        handle = install(model.layout.point(sae.site), push)
        with torch.no_grad():
            log_probs = model.hf(ids).logits[0].log_softmax(-1)
        handle.remove()
        picked = [log_probs[i - 1, ids[0, i]].item() for i in scored if i > 0]
        means[example.label].append(sum(picked) / len(picked))
    return sum(means[1]) / len(means[1]) - sum(means[0]) / len(means[0])


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_the_effect_is_the_sum_done_by_hand(tiny_model: Any, tiny_sae: Any, arch: str) -> None:
    model = tiny_model(arch)
    sae = tiny_sae(model, "resid_post.1")
    got = logit_effects(model, sae, CONTRAST, [3, 8], dose=0.5, batch_size=4)
    expected = [by_hand(model, sae, f, 0.5) - by_hand(model, sae, f, 0.0) for f in (3, 8)]
    assert got == pytest.approx(expected, abs=2e-5)
    assert max(map(abs, got)) > 1e-4


def test_no_dose_has_no_effect(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    assert logit_effects(model, sae, CONTRAST, [0, 1], dose=0.0) == [0.0, 0.0]


def test_small_opposite_directions_have_opposite_effects(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    rows = sae.w_dec.clone()
    rows[1] = -rows[0]
    plus, minus = logit_effects(model, replace(sae, w_dec=rows), CONTRAST, [0, 1], dose=0.01)
    assert plus == pytest.approx(-minus, rel=0.1)


def test_the_effect_does_not_depend_on_the_length_of_the_decoder_row(
    tiny_model: Any, tiny_sae: Any
) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    longer = replace(sae, w_dec=sae.w_dec * 8)
    assert logit_effects(model, sae, CONTRAST, [5]) == pytest.approx(
        logit_effects(model, longer, CONTRAST, [5]), abs=1e-6
    )


def test_hooks_are_gone_after_success_and_after_failure(
    tiny_model: Any, tiny_sae: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    module = model.layout.point(sae.site).module
    logit_effects(model, sae, CONTRAST, [0])
    assert not module._forward_hooks
    with monkeypatch.context() as patch:
        calls = iter(range(100))
        real = F.cross_entropy

        def fail(*args: Any, **kwargs: Any) -> Any:
            if next(calls) > 0:
                raise RuntimeError("broken on purpose")
            return real(*args, **kwargs)

        patch.setattr("saesteer.features.effects.F.cross_entropy", fail)
        with pytest.raises(RuntimeError, match="on purpose"):
            logit_effects(model, sae, CONTRAST, [0])
    assert not module._forward_hooks


def test_second_half_by_cases() -> None:
    own = torch.tensor([[0, 1, 1, 1, 1], [0, 1, 1, 1, 0], [1, 0, 0, 0, 0], [0, 0, 1, 0, 0]]).bool()
    expected = [[0, 0, 0, 1, 1], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0]]
    assert second_half(own).int().tolist() == expected


def test_errors(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("gpt2")
    sae = tiny_sae(model, "resid_post.1")
    with pytest.raises(FeatureError, match="feature 9999 does not exist"):
        logit_effects(model, sae, CONTRAST, [9999])
    if not prefix_ids(model):
        with pytest.raises(DataError, match="long enough to be scored"):
            logit_effects(model, sae, Contrast.from_texts(["a"], ["b"]), [0])
