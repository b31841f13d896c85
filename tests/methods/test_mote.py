"""MoTE: forced experts are always chosen, suppressed ones never, and nobody else's logits move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError, ContrastError, SiteError
from saesteer.methods import MoTE
from saesteer.models import Model, Site, record
from saesteer.steer import Plan, add
from saesteer.steer import all as everywhere

N_EXPERTS = 4


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Model]) -> Model:
    return tiny_model("mixtral")


def routed(model: Model, texts: list[str], plan: Plan | None = None) -> dict[int, Any]:
    """What every layer's router gave back for the texts' real tokens: logits and indices."""
    seen: dict[int, Any] = {}
    batch = model.tokenize(texts)
    real = batch.attention_mask.flatten()
    handles = [
        block.mlp.gate.register_forward_hook(
            lambda _m, _a, out, layer=layer: seen.__setitem__(layer, (out[0][real], out[2][real]))
        )
        for layer, block in enumerate(model.layout.blocks)
    ]
    try:
        with torch.no_grad():
            if plan is None:
                model.forward(batch)
            else:
                with plan.on(model):
                    model.forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def shares(model: Model, texts: list[str], plan: Plan | None = None) -> torch.Tensor:
    """How often each expert was chosen, `[layers, experts]`."""
    seen = routed(model, texts, plan)
    counts = [torch.bincount(ids.flatten(), minlength=N_EXPERTS) / len(ids) for _, ids in
              seen.values()]  # fmt: skip
    return torch.stack(counts)


def test_the_router_site_is_what_the_router_alone_reads(model: Model) -> None:
    batch = model.tokenize(["some words", "x"])
    found = record(model, batch, ["router_in.1", "mlp_in.1"])
    assert torch.equal(*found.values())
    logits = routed(model, ["some words", "x"])[1][0]
    weight = model.layout.router_weight(Site(1, "router_in"))
    read = found[Site(1, "router_in")][batch.attention_mask]
    assert torch.allclose(read @ weight.T, logits, atol=1e-4)


def test_forced_experts_are_always_chosen_and_suppressed_ones_never(
    model: Model, letters: Contrast
) -> None:
    plan = MoTE(n_on=2, n_off=2).fit(model, letters)
    before = shares(model, ["the rain in town", "aa zz xx ee"])
    after = shares(model, ["the rain in town", "aa zz xx ee"], plan)
    assert int((after == 1.0).sum()) >= 2
    assert int((after == 0.0).sum()) >= 2
    assert not torch.equal(before, after)


def test_only_the_tuned_experts_logits_move(model: Model) -> None:
    site = Site(2, "router_in")
    weight = model.layout.router_weight(site)
    wanted = torch.tensor([0.0, 50.0, 0.0, -50.0])
    plan = Plan(add(site, torch.linalg.pinv(weight) @ wanted), where=everywhere(special=True))
    texts = ["the rain", "a"]
    plain, tuned = (routed(model, texts, p)[2][0] for p in (None, plan))
    assert torch.allclose(tuned - plain, wanted.expand_as(plain), atol=1e-3)


def test_the_most_different_experts_are_taken(model: Model, letters: Contrast) -> None:
    train = letters.split("train")
    sides = [shares(model, [e.text for e in side]) for side in (train.positives, train.negatives)]
    relevance = sides[0] - sides[1]
    plan = MoTE(n_on=1, n_off=0).fit(model, letters)
    layer, expert = divmod(int(relevance.argmax()), N_EXPERTS)
    (edit,) = plan.edits
    assert edit.intervention.site == Site(layer, "router_in")
    act: Any = edit.intervention
    logits = model.layout.router_weight(act.site) @ act.vector
    assert int(logits.argmax()) == expert
    assert float(logits.sum() - logits.max()) == pytest.approx(0.0, abs=1e-2)


def test_rows_of_a_padded_batch_are_their_own(model: Model) -> None:
    """An edit of one row's span must not reach the row beside it, though both are flattened."""
    from saesteer import steer

    site = Site(1, "router_in")
    push = torch.linalg.pinv(model.layout.router_weight(site)) @ torch.tensor([90.0, 0, 0, -90.0])
    plan = Plan(add(site, push), where=steer.positions([0]))
    batch = model.tokenize(["the rain in the town", "x"])
    with torch.no_grad(), plan.on(model, prompt_lengths=[1]):
        whole = model.forward(batch)
        for row in range(2):
            ids = batch.input_ids[row][batch.attention_mask[row]][None]
            alone = model.hf(input_ids=ids).logits[0]
            assert torch.allclose(whole[row][batch.attention_mask[row]], alone, atol=1e-4)


def test_models_and_settings_without_experts_are_refused(
    tiny_model: Any, model: Model, letters: Contrast
) -> None:
    with pytest.raises(SiteError, match="router_in.0 does not exist: LlamaMLP is no mixture"):
        MoTE().fit(tiny_model("llama"), letters)
    with pytest.raises(ConfigError, match="MoTE: n_off 0, n_on 0"):
        MoTE(n_off=0, n_on=0)
    same = Contrast.from_texts(["the sé"] * 5, ["the sü"] * 5, name="same")  # both unknown
    with pytest.raises(ContrastError, match="same: no expert tells its two groups apart"):
        MoTE().fit(model, same)
