"""Weight edits: what a parameter becomes, and that it is what it was to the last bit afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from laws import fresh
from torch import Tensor

from saesteer import steer
from saesteer.errors import DimensionError, PlanError
from saesteer.models import Model
from saesteer.models.fingerprint import weights_fingerprint
from saesteer.steer import Plan, WeightEdit

DOWN, UP = "model.layers.1.mlp.down_proj.weight", "model.layers.2.mlp.up_proj.weight"
IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture
def model(tiny_model: Callable[..., Model]) -> Model:
    return fresh(tiny_model("llama"))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weight(model: Model, name: str = DOWN) -> Tensor:
    return model.hf.get_parameter(name).detach()


def logits(model: Model) -> Tensor:
    with torch.no_grad():
        return model.hf(IDS).logits


def three(model: Model) -> list[Plan]:
    shape = tuple(weight(model).shape)
    return [
        Plan(WeightEdit(DOWN, noise(*shape, seed=1)), strength=0.1),
        Plan(WeightEdit(DOWN, noise(shape[0], 2), noise(2, shape[1], seed=2)), strength=-0.3),
        Plan(
            WeightEdit(DOWN, noise(*shape, seed=3), strength=0.7),
            WeightEdit(UP, noise(*weight(model, UP).shape, seed=4)),
        ),
    ]


def test_a_weight_is_the_original_and_strength_times_the_change(model: Model) -> None:
    before, change = weight(model).clone(), noise(*weight(model).shape)
    left, right = noise(32, 3, seed=5), noise(3, 64, seed=6)
    plain = logits(model)
    with Plan(WeightEdit(DOWN, change, strength=0.5), strength=3).on(model):
        assert torch.equal(weight(model), before + 1.5 * change)
        assert not torch.allclose(logits(model), plain, atol=1e-2)
    with Plan(WeightEdit(DOWN, left, right)).on(model):
        assert torch.equal(weight(model), before + left @ right)
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_plans_come_off_in_any_order_and_leave_every_bit(
    model: Model, order: tuple[int, ...]
) -> None:
    parameters = dict(model.hf.named_parameters())
    storages = {n: (id(p), p.data_ptr(), p.detach().clone()) for n, p in parameters.items()}
    plans = three(model)
    for plan in plans:
        plan.attach(model)
    kept = {0, 1, 2}
    for index in order:
        plans[index].detach(model)
        kept.discard(index)
        expected = storages[DOWN][2]
        for each in sorted(kept):
            edit = plans[each].weight_edits[0]
            strength = plans[each].strength * edit.strength
            expected = expected + strength * edit.added(expected.device)
        assert torch.equal(weight(model), expected)
    for name, parameter in model.hf.named_parameters():
        identity, pointer, values = storages[name]
        assert (id(parameter), parameter.data_ptr()) == (identity, pointer)
        assert torch.equal(parameter, values)
        assert not parameter.__dict__


def test_an_exception_puts_weights_back(model: Model) -> None:
    before = weight(model).clone()
    during = []

    def fail() -> None:
        during.append(weight(model).clone())
        raise KeyError

    with pytest.raises(KeyError), three(model)[2].on(model):
        fail()
    assert not torch.equal(during[0], before)
    assert torch.equal(weight(model), before)


def test_bf16_weights_are_rounded_once(model: Model) -> None:
    """Two changes that bf16 would each round away, and that count together."""
    model.hf.to(torch.bfloat16)
    before = weight(model).clone()
    change = before.float() * 0.0015
    one, two = (Plan(WeightEdit(DOWN, change)) for _ in range(2))
    with one.on(model):
        assert torch.equal(weight(model), before)
        with two.on(model):
            assert weight(model).dtype == torch.bfloat16
            assert torch.equal(weight(model), (before.float() + change + change).bfloat16())
            assert not torch.equal(weight(model), before)
    assert torch.equal(weight(model), before)


def test_no_strength_touches_nothing(model: Model) -> None:
    parameter = model.hf.get_parameter(DOWN)
    pointer = parameter.data_ptr()
    with (
        (three(model)[0] * 0.0).on(model),
        Plan(WeightEdit(DOWN, noise(32, 64), strength=0)).on(model),
    ):
        assert parameter.data_ptr() == pointer
        assert "generate" not in model.hf.__dict__


def test_what_does_not_fit_is_refused_before_anything_changes(model: Model) -> None:
    before = {n: p.detach().clone() for n, p in model.hf.named_parameters()}
    good = WeightEdit(UP, noise(*weight(model, UP).shape))
    wrong: list[tuple[type[Exception], str, WeightEdit]] = [
        (PlanError, "no parameter of this model", WeightEdit("model.nothing", noise(3, 3))),
        (DimensionError, r"shape \[3, 3\], expected \[32, 64\]", WeightEdit(DOWN, noise(3, 3))),
        (
            PlanError,
            "NaN or infinity; lower",
            WeightEdit(DOWN, torch.full((32, 64), 1e38), strength=1e38),
        ),
    ]
    for kind, words, edit in wrong:
        with pytest.raises(kind, match=words):
            Plan(good, edit).attach(model)
        for name, parameter in model.hf.named_parameters():
            assert torch.equal(parameter, before[name])
        assert "generate" not in model.hf.__dict__
    with pytest.raises(PlanError, match="NaN or infinity; check"):
        WeightEdit(DOWN, torch.full((32, 64), float("nan")))
    with pytest.raises(DimensionError, match="don't fit together"):
        WeightEdit(DOWN, noise(32, 2), noise(3, 64))
    with pytest.raises(DimensionError, match="don't make a matrix"):
        WeightEdit(DOWN, noise(32), noise(3, 64))


def test_offloaded_and_quantised_weights_are_refused(model: Model) -> None:
    mlp = model.hf.model.layers[1].mlp
    mlp.down_proj.weight = torch.nn.Parameter(torch.zeros(32, 64, dtype=torch.int8), False)
    with pytest.raises(PlanError, match=r"torch\.int8"):
        three(model)[0].attach(model)
    mlp.down_proj.weight = torch.nn.Parameter(torch.zeros(32, 64, device="meta"))
    with pytest.raises(PlanError, match="on no device"):
        three(model)[0].attach(model)


def test_a_tied_weight_is_refused_unless_one_use_of_it_is_meant(
    tiny_model: Callable[..., Model],
) -> None:
    model = fresh(tiny_model("gpt2"))
    head, embedding = model.hf.lm_head, model.hf.transformer.wte
    assert head.weight is embedding.weight
    shared, plain, print_ = head.weight, logits(model), weights_fingerprint(model.hf)
    change = noise(128, 32)
    for name in ("lm_head.weight", "transformer.wte.weight"):
        with pytest.raises(PlanError, match="is tied to"):
            Plan(WeightEdit(name, change)).attach(model)
    with Plan(WeightEdit("lm_head.weight", change, untie=True)).on(model):
        assert embedding.weight is shared
        assert torch.equal(head.weight, shared + change)
        resid = model.hf.transformer(IDS).last_hidden_state
        assert torch.allclose(logits(model), plain + resid @ change.T, atol=1e-3)
        assert weights_fingerprint(model.hf) == print_
        with pytest.raises(PlanError, match="is tied to"):
            Plan(WeightEdit("transformer.wte.weight", change)).attach(model)
    assert head.weight is embedding.weight is shared
    assert torch.equal(logits(model), plain)


def test_the_fingerprint_is_that_of_the_unsteered_weights(
    model: Model, tiny_model: Callable[..., Model], tmp_path: Path
) -> None:
    plain = weights_fingerprint(model.hf)
    plan = three(model)[0]
    with plan.on(model):
        assert weights_fingerprint(model.hf) == plain
        plan.save(tmp_path / "plan", model)
    assert Plan.load(tmp_path / "plan", tiny_model("llama")).stamp["weights"] == plain


def test_unsteered_gives_the_weights_back_for_its_block(model: Model) -> None:
    before, plain = weight(model).clone(), logits(model)
    first, second = three(model)[:2]
    with first.on(model):
        steered = logits(model)
        with steer.unsteered(model), steer.unsteered(model):
            assert torch.equal(weight(model), before)
            assert torch.equal(logits(model), plain)
            second.attach(model)
            assert torch.equal(weight(model), before)
        assert not torch.equal(logits(model), steered)
        second.detach(model)
        assert torch.equal(logits(model), steered)
        with steer.unsteered(model):
            second.attach(model)
            second.detach(model)
            assert torch.equal(weight(model), before)
    assert torch.equal(weight(model), before)


def test_a_sum_moves_strengths_into_its_parts(model: Model) -> None:
    first, second, _ = three(model)
    with first.on(model), second.on(model):
        nested = weight(model).clone()
    both = first + second
    assert [edit.strength for edit in both.weight_edits] == [0.1, -0.3]
    with both.on(model):
        assert torch.equal(weight(model), nested)
    assert (both * 0.5).weight_edits == both.weight_edits


def test_a_saved_plan_is_the_same_plan(model: Model, tmp_path: Path) -> None:
    mixed = three(model)[1] + Plan(steer.add("resid_post.1", noise(32)), where=steer.all())
    mixed.save(tmp_path / "plan", model)
    loaded = Plan.load(tmp_path / "plan", model)
    outputs = []
    for plan in (mixed, loaded):
        with plan.on(model):
            outputs.append(logits(model))
    assert torch.equal(*outputs)
    other = Plan(WeightEdit("model.layers.40.mlp.down_proj.weight", noise(32, 64)))
    other.save(tmp_path / "other")
    with pytest.raises(PlanError, match="no parameter of this model"):
        Plan.load(tmp_path / "other", model)


def test_the_trace_names_them(model: Model) -> None:
    plan = three(model)[1]
    with plan.on(model) as trace:
        model.generate("the rain", max_new_tokens=2, eos_token_id=None)
    label = f"change {DOWN} by rank 2, strength -0.3"
    assert trace.summary()["throughout"] == [label]
    assert f"{label}, at every token" in trace.explain()
    assert (trace.n_positions > 0, trace.n_edited) == (True, 0)
