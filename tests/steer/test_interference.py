"""What edits do to each other is measured where they meet, and an absurd dose is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from saesteer import steer
from saesteer.errors import PlanError
from saesteer.steer import Edit, Plan, WeightEdit
from saesteer.steer.interference import check_interference
from saesteer.steer.norms import typical_norm

AXES = torch.eye(32)
PROMPTS = ["the rain", "the sea in the sun"]


def check(model: Any, *acts: Any, strength: float = 1.0) -> Any:
    plan = Plan(*acts, where=steer.generated(), strength=strength)
    return check_interference(plan, model, PROMPTS)


def test_cosines_are_those_of_the_vectors_with_their_signs(tiny_model) -> None:
    site, mix = "resid_post.1", AXES[0] + AXES[1]
    acts = [
        steer.add(site, AXES[0]),
        steer.add(site, mix),
        Edit(steer.add(site, AXES[0]), strength=-2.0),
        steer.add("resid_post.2", AXES[0]),
    ]
    found = check(tiny_model("llama"), *acts)
    cosines = {pair.edits: pair.cosine for pair in found.pairs}
    assert set(cosines) == {(0, 1), (0, 2), (1, 2)}  # another site is no pair
    assert cosines[0, 1] == pytest.approx(0.5**0.5, abs=1e-6)
    assert cosines[0, 2] == pytest.approx(-1.0, abs=1e-6)
    assert cosines[1, 2] == pytest.approx(-(0.5**0.5), abs=1e-6)
    assert [("cancel" in w, "add up" in w) for w in found.warnings] == [
        (False, True),
        (True, False),
        (True, False),
    ]


def test_spans_meet_at_their_smallest_angle(tiny_model, tiny_sae) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    plane = steer.project_out("resid_post.1", AXES[:2])
    tilted = torch.stack([AXES[1] + AXES[2], AXES[3]])
    other = steer.project_out("resid_post.1", tilted)
    clamp = steer.clamp(sae, 7, 1.0)
    shift = steer.affine("resid_post.1", torch.eye(32) * 1.1, AXES[0])
    found = check(model, plane, other, clamp, shift)
    cosines = {pair.edits: pair.cosine for pair in found.pairs}
    assert cosines[0, 1] == pytest.approx(0.5**0.5, abs=1e-5)
    assert cosines[0, 2] == pytest.approx(float(sae.w_dec[7, :2].norm()), abs=1e-4)
    assert cosines[0, 3] is None


def test_overlap_counts_positions_where_both_act(tiny_model) -> None:
    site = "resid_post.1"
    acts = [
        Edit(steer.add(site, AXES[0]), where=steer.all()),
        Edit(steer.add(site, AXES[1]), where=steer.prompt()),
        Edit(steer.add(site, AXES[2]), where=steer.last()),
    ]
    found = check(tiny_model("llama"), *acts)
    edited = [edit.n_edited for edit in found.edits]
    overlap = {pair.edits: pair.overlap for pair in found.pairs}
    assert overlap[0, 1] == pytest.approx(edited[1] / edited[0])
    assert edited[2] == 2
    assert overlap[1, 2] == pytest.approx(2 / edited[1])


def test_the_budget_shows_edits_that_cancel(tiny_model) -> None:
    model = tiny_model("llama")
    site = "resid_post.1"
    norm = typical_norm(model, model.check_site(site))
    push, pull = steer.add(site, 0.1 * norm * AXES[0]), steer.add(site, -0.1 * norm * AXES[0])
    (budget,) = check(model, push, pull).sites
    assert budget.dose == pytest.approx(0.0, abs=1e-6)
    assert budget.sum_of_doses > 0.05
    assert budget.typical_norm == norm


def test_an_edit_longer_than_the_activation_is_refused(tiny_model) -> None:
    model = tiny_model("llama")
    act = steer.add_scaled("resid_post.1", AXES[0])
    check(model, act, strength=0.9).refuse_absurd()
    found = check(model, act, strength=1.5)
    with pytest.raises(PlanError, match=r"dose 1\.5 at resid_post\.1: .*--allow-dose"):
        found.refuse_absurd()
    assert any("longer than what they edit" in text for text in found.warnings)


def test_an_edit_at_resid_mid_does_not_reach_the_stream_and_says_so(tiny_model) -> None:
    model, ids = tiny_model("llama"), torch.tensor([[5, 6, 7]])
    plan = Plan(steer.add("resid_mid.1", 5 * AXES[0]), where=steer.all())
    model_mlp = model.layout.point(model.check_site("mlp_out.1")).module
    silent = model_mlp.register_forward_hook(lambda module, args, out: 0 * out)
    try:
        plain = model.hf(ids).logits
        with plan.on(model):
            assert torch.equal(model.hf(ids).logits, plain)
    finally:
        silent.remove()
    told = check_interference(plan, model, PROMPTS).warnings
    assert any(text.startswith("edits at resid_mid.1 reach the MLP branch alone") for text in told)


def test_a_change_longer_than_its_weight_is_refused(tiny_model) -> None:
    model, name = tiny_model("llama"), "model.layers.1.mlp.down_proj.weight"
    weight = model.hf.get_parameter(name).detach()
    half = [WeightEdit(name, weight), WeightEdit(name, weight[:, :1], torch.eye(64)[:1])]
    found = check(model, *half, strength=0.5)
    expected = (weight + torch.eye(64)[0] * weight[:, :1]).norm() / weight.norm() / 2
    assert [w.parameter for w in found.weights] == [name]
    assert found.weights[0].relative_size == pytest.approx(float(expected), rel=1e-5)
    assert found.warnings == []
    found.refuse_absurd()
    wild = check(model, WeightEdit(name, weight, strength=-1.5))
    with pytest.raises(PlanError, match=rf"dose 1\.5 on {name}: .* than the weight.*--allow-dose"):
        wild.refuse_absurd()
    assert any(f"change of {name} is longer" in text for text in wild.warnings)


def test_looking_leaves_nothing_behind(tiny_model) -> None:
    model = tiny_model("llama")
    before = model.generate(PROMPTS, max_new_tokens=5)
    found = check(model, steer.add("resid_post.1", AXES[0]))
    assert model.generate(PROMPTS, max_new_tokens=5) == before
    assert found.to_dict()["edits"][0]["n_edited"] == found.edits[0].n_edited > 0
