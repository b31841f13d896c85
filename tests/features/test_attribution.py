"""Attribution: the gradient of a model with the SAE truly in its graph, and exact ablation."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from inspect import unwrap
from typing import Any

import pytest
import torch

from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError, DataError, SaeError
from saesteer.features.attribution import attribute_token
from saesteer.features.find import find_features
from saesteer.features.top import top_features
from saesteer.models import install

PROMPT = "a small boat"


def ids_of(model: Any, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def scaled(sae: Any, factor: float) -> Any:
    """The same latents, each writing `factor` as much."""
    return replace(sae, w_dec=sae.w_dec * factor)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gemma3"])
def test_it_is_the_gradient_with_the_sae_and_its_error_in_the_graph(
    tiny_model: Any, tiny_sae: Any, arch: str
) -> None:
    model = tiny_model(arch)
    sae = tiny_sae(model, "resid_post.1")
    seen: list[torch.Tensor] = []

    def splice(resid: torch.Tensor) -> torch.Tensor:
        latents = sae.encode(resid.detach()).requires_grad_()
        error = (resid - sae.decode(latents)).detach()
        seen.append(latents)
        return sae.decode(latents) + error

    handle = install(model.layout.point(sae.site), splice)
    logit = model.forward(model.tokenize([PROMPT]))[0, -1, 70]
    handle.remove()
    (grad,) = torch.autograd.grad(logit, seen)
    expected = (grad * seen[0])[0].detach()
    got = attribute_token(model, sae, PROMPT, 70, top=10_000, last=None)
    assert got.logit == pytest.approx(logit.item(), abs=1e-4)
    assert len(got.parts) == int((expected != 0).sum()) > 0
    for part in got.parts:
        value = expected[part.position, part.feature].item()
        assert part.attribution == pytest.approx(value, rel=1e-3, abs=1e-6)
        assert part.activation == pytest.approx(
            seen[0][0, part.position, part.feature].item(), rel=1e-3
        )


def test_small_nodes_attribute_what_ablating_them_takes(tiny_model: Any, tiny_sae: Any) -> None:
    """The gap to exact ablation falls with the square of the node's size, as a gradient's must."""
    model = copy.deepcopy(tiny_model("llama"))
    model.hf.double()
    sae = tiny_sae(model, "resid_post.1").to(dtype=torch.float64)
    gaps: list[float] = []
    for factor in (0.1, 0.01):
        got = attribute_token(model, scaled(sae, factor), PROMPT, 70, top=8, ablations=8, last=None)
        parts = [(p.attribution, p.ablation) for p in got.parts]
        gaps.append(max(abs(a - e) / factor for a, e in parts if e is not None))
        size = max(abs(a) for a, _ in parts) / factor
    assert size > 0
    assert gaps[1] < 0.02 * size
    assert gaps[1] < 0.2 * gaps[0] or gaps[0] < 1e-4 * size


def test_only_the_largest_are_ablated_and_parts_are_ordered(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    got = attribute_token(model, tiny_sae(model, "resid_post.1"), PROMPT, top=6, ablations=2)
    assert [p.ablation is not None for p in got.parts] == [True, True, False, False, False, False]
    sizes = [abs(p.attribution) for p in got.parts]
    assert sizes == sorted(sizes, reverse=True)


def test_the_default_token_is_the_models_own(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    with torch.no_grad():
        logits = model.forward(model.tokenize([PROMPT]))[0, -1]
    own = attribute_token(model, sae, PROMPT)
    assert own.token_id == int(logits.argmax())
    assert own == attribute_token(model, sae, PROMPT, own.token_id)
    assert own.probability == pytest.approx(logits.softmax(-1).max().item(), rel=1e-4)


def test_last_limits_the_positions(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    n_tokens = model.tokenize([PROMPT]).input_ids.shape[1]
    everywhere = attribute_token(model, sae, PROMPT, 70, top=10_000, last=None)
    recent = attribute_token(model, sae, PROMPT, 70, top=10_000, last=2)
    assert {p.position for p in recent.parts} == {n_tokens - 2, n_tokens - 1}
    kept = tuple(p for p in everywhere.parts if p.position >= n_tokens - 2)
    assert recent.parts == kept


def test_every_position_counts_unless_it_is_said_how_many(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    long = f"{PROMPT} and the rain in the town and the sea in the sun"
    assert model.tokenize([long]).input_ids.shape[1] > 20
    plain = attribute_token(model, sae, long, 70, top=10_000)
    assert min(part.position for part in plain.parts) < 3
    assert plain.to_dict()["last"] is None
    recent = attribute_token(model, sae, long, 70, top=10_000, last=4)
    assert recent.to_dict()["last"] == 4


def test_one_prompt_is_explained_at_a_time(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    with pytest.raises(DataError, match="one prompt at a time, got 2"):
        unwrap(attribute_token)(model, sae, [PROMPT, "the sea"])
    assert attribute_token(model, sae, PROMPT) == unwrap(attribute_token)(model, sae, [PROMPT])


def test_outlier_positions_are_left_out(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")

    def blow_up(resid: torch.Tensor) -> torch.Tensor:
        resid = resid.clone()
        resid[:, 4] = resid[:, 4] * 1000
        return resid

    handle = install(model.layout.point(sae.site), blow_up)
    try:
        got = attribute_token(model, sae, PROMPT, 70, top=10_000, last=None)
    finally:
        handle.remove()
    assert got.parts
    assert 4 not in {p.position for p in got.parts}


def test_a_token_is_named_by_its_text(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    text = next(t for t in ("the", "a", "t") if len(ids_of(model, t)) == 1)
    got = attribute_token(model, sae, PROMPT, text)
    assert [got.token_id] == ids_of(model, text)
    assert json.loads(json.dumps(got.to_dict()))["token_id"] == got.token_id


def test_hooks_are_gone_and_no_gradient_is_left(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    attribute_token(model, sae, PROMPT, ablations=1)
    assert not model.layout.point(sae.site).module._forward_hooks
    assert all(parameter.grad is None for parameter in model.hf.parameters())


def test_errors(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    with pytest.raises(DataError, match=r"is \d+ tokens, .*; choose a single one"):
        attribute_token(model, sae, PROMPT, "two words at the very least, surely")
    with pytest.raises(DataError, match="token id 100000 does not exist; the model has 0-"):
        attribute_token(model, sae, PROMPT, 100_000)


def test_more_than_the_model_can_read_or_nothing_to_show_is_refused(
    tiny_model: Any, tiny_sae: Any
) -> None:
    model = tiny_model("gpt2")
    sae = tiny_sae(model, "resid_post.1")
    with pytest.raises(DataError, match=r"the prompt has \d+ tokens; tiny-gpt2 reads at most 256"):
        attribute_token(model, sae, "the rain in " * 200)
    contrast = Contrast.from_texts(["a b"], ["c d"])
    with pytest.raises(ConfigError, match="top is -1, expected 1 or more"):
        attribute_token(model, sae, PROMPT, top=-1)
    with pytest.raises(ConfigError, match="top is 0, expected 1 or more"):
        top_features(model, sae, "the sea", top=0)
    with pytest.raises(ConfigError, match="effects is -1, expected 0 or more"):
        find_features(model, sae, contrast, effects=-1)


def test_the_name_of_an_sae_is_none_and_positions_are_counted_from_one(
    tiny_model: Any, tiny_sae: Any
) -> None:
    model = tiny_model("llama")
    for ask in (attribute_token, top_features, find_features):
        with pytest.raises(SaeError, match=r"a str is no SAE; .*load_sae\('the/one'\)"):
            unwrap(ask)(model, "the/one", "some words")
    with pytest.raises(ConfigError, match="last"):
        attribute_token(model, tiny_sae(model, "resid_post.1"), "some words", last=0)
