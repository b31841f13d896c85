"""Plans as values: how they are made, scaled, joined, and what they refuse."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saesteer import steer
from saesteer.errors import PlanError
from saesteer.steer import Edit, Plan, PromptEdit
from saesteer.steer.edit import finite_strength

VECTOR = torch.ones(32)
ADD = steer.add("resid_post.1", VECTOR)
numbers = st.floats(-8, 8, allow_nan=False)


@given(a=numbers, b=numbers, c=numbers)
def test_strengths_multiply_and_move_into_a_sum(a: float, b: float, c: float) -> None:
    plan = Plan(Edit(ADD, strength=a), strength=b)
    assert (plan * c).strength == (c * plan).strength == b * c
    assert plan.with_strength(c).strength == c
    both = (plan + Plan(ADD, strength=c)) * 2.0
    assert [e.strength * both.strength for e in both.edits] == [a * b * 2.0, c * 2.0]


def test_where_and_gate_are_for_bare_interventions() -> None:
    own = Edit(ADD, where=steer.last())
    plan = Plan(own, ADD, where=steer.all())
    assert plan.edits[0] is own
    assert plan.edits[1].where == steer.all()
    assert Plan(ADD).edits[0].where == steer.generated()


def test_a_sum_equals_its_parts_one_after_the_other(tiny_model: Any) -> None:
    model, ids = tiny_model("llama"), torch.tensor([[5, 6, 7]])
    one, two = (Plan(steer.add(f"resid_post.{n}", n * VECTOR), where=steer.all()) for n in (1, 2))
    with one.on(model), two.on(model):
        nested = model.hf(ids).logits
    with (one + two).on(model):
        assert torch.allclose(model.hf(ids).logits, nested, atol=1e-5)


def test_strength_multiplies_the_change(tiny_model: Any) -> None:
    model, ids = tiny_model("llama"), torch.tensor([[5, 6, 7]])
    base = Plan(ADD, where=steer.all())
    equal = Plan(steer.add("resid_post.1", -2.5 * VECTOR), where=steer.all())
    with (base * -2.5).on(model):
        got = model.hf(ids).logits
    with equal.on(model):
        assert torch.allclose(model.hf(ids).logits, got, atol=1e-5)


def test_one_length_or_one_each(tiny_model: Any) -> None:
    model = tiny_model("llama")
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    for lengths, edited in ((3, 4), ([3, 1], 6), (torch.tensor([4, 4]), 2)):
        with Plan(ADD).on(model, prompt_lengths=lengths) as trace:
            model.hf(ids)
        assert trace.n_edited == edited
    with pytest.raises(PlanError, match="tokens per row"), Plan(ADD).on(model, prompt_lengths=[0]):
        pass
    with pytest.raises(PlanError, match="3 rows"), Plan(ADD).on(model, prompt_lengths=[1, 1, 1]):
        model.hf(ids)


def test_plans_on_one_text_have_the_same_prompt_lengths(tiny_model: Any) -> None:
    """A pass has one frame, so one plan's lengths would be taken for the other's."""
    model, ids = tiny_model("llama"), torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    one, two = (Plan(steer.add(f"resid_post.{n}", VECTOR)) for n in (1, 2))
    with one.on(model, prompt_lengths=[3, 1]) as trace:
        for lengths in (3, [1, 3], [3, 1, 1]):
            with pytest.raises(PlanError, match=r"prompt_lengths \[.*\[3, 1\] of another plan"):
                two.attach(model, prompt_lengths=lengths)
        for lengths in (None, [3, 1], torch.tensor([3, 1])):
            trace.clear()
            with two.on(model, prompt_lengths=lengths) as other:
                model.hf(ids)
            assert trace.n_edited == other.n_edited == 6
        trace.clear()
        model.hf(ids)
        assert trace.n_edited == 6
    with one.on(model, 3) as trace, two.on(model, [3, 3]) as other:
        model.hf(ids)
    assert trace.n_edited == other.n_edited == 4
    with two.on(model, 2) as other:
        model.hf(ids)
    assert other.n_edited == 6


def test_plans_on_one_text_have_all_their_dials(tiny_model: Any) -> None:
    model, ids = tiny_model("llama"), torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    one, two = (
        Plan(Edit(steer.add(f"resid_post.{n}", n * VECTOR), schedule=steer.dial(key, 0.0)))
        for n, key in ((1, "a"), (2, "b"))
    )
    a, b = ([{k: torch.tensor([0.0, d, 2.0])} for d in (1.0, 3.0)] for k in "ab")
    both = [{**x, **y} for x, y in zip(a, b, strict=True)]
    with (one + two).on(model, 2, both), torch.no_grad():
        expected = model.hf(ids).logits
    for dials in ((a, b), (both, None), (both, both)):
        with one.on(model, 2, dials[0]), two.on(model, [2, 2], dials[1]), torch.no_grad():
            assert torch.allclose(model.hf(ids).logits, expected, atol=1e-4)
    with one.on(model, 2, a) as trace:
        with two.on(model, 2, b):
            pass
        model.hf(ids)
        assert trace.dose() > 0
        with pytest.raises(PlanError, match="dial 'a' stood elsewhere"):
            two.attach(model, 2, [{"a": torch.ones(3)}] * 2)


def test_a_bare_module_can_be_steered(tiny_model: Any) -> None:
    model = tiny_model("gpt2")
    with Plan(ADD).on(model.hf) as trace:
        model.hf.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, eos_token_id=None)
    assert trace.n_edited == 3


@pytest.mark.parametrize("site", ["attn_out.1", "mlp_out.2", "head_out.1.2", "neurons.1"])
def test_every_kind_of_site_can_be_edited(tiny_model: Any, site: str) -> None:
    model, ids = tiny_model("llama"), torch.tensor([[5, 6, 7]])
    from saesteer.models import Site

    vector = torch.ones(model.layout.width(Site.parse(site)))
    plain = model.hf(ids).logits
    with Plan(steer.add(site, 3 * vector), where=steer.all()).on(model) as trace:
        assert not torch.allclose(model.hf(ids).logits, plain, atol=1e-2)
    assert trace.n_edited == 3


def test_wrong_parts_are_refused() -> None:
    from saesteer.steer.plan import _as_act

    with pytest.raises(PlanError, match="got a int"):
        _as_act(3, None, None)
    wrong = Edit(ADD)
    object.__setattr__(wrong, "where", steer.generated)
    with pytest.raises(PlanError, match="where is a function, expected a Where"):
        wrong.__post_init__()
    with pytest.raises(PlanError, match="finite"):
        Plan(ADD, strength=float("nan"))
    with pytest.raises(PlanError, match="finite"):
        Plan(ADD) * float("inf")


def test_prompt_edits_act_in_generate_and_go_again(tiny_model: Any) -> None:
    model = tiny_model("llama")
    plan = Plan(prompt=PromptEdit(prefix="the rain "))
    plain = model.generate("in the sea", max_new_tokens=6)
    expected = model.generate("the rain in the sea", max_new_tokens=6)
    with plan.on(model):
        assert model.generate("in the sea", max_new_tokens=6) == expected
    with (plan * 0.0).on(model):
        assert model.generate("in the sea", max_new_tokens=6) == plain
    assert model.prompt_edits == []
    with pytest.raises(PlanError, match=r"Model\.generate"):
        plan.attach(model.hf)


def test_decay_halves(tiny_model: Any) -> None:
    edit = Edit(ADD, schedule=steer.decay(2.0))
    with Plan(edit).on(tiny_model("llama")) as trace:
        tiny_model("llama").generate("the sea", max_new_tokens=5, eos_token_id=None)
    sizes = torch.cat([d.norm[d.mask] for p in trace.passes for d in p.deeds])
    expected = VECTOR.norm() * 0.5 ** (torch.arange(5) / 2)
    assert torch.allclose(sizes, expected)
    with pytest.raises(PlanError, match="half_life"):
        steer.decay(0)


@pytest.mark.parametrize("form", ["on", "compiled"])
def test_prompts_that_are_learned_are_refused(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """PEFT puts virtual tokens in front of a prompt, so it would end later than it is told to."""
    model, adapter = tiny_model("llama"), SimpleNamespace(is_prompt_learning=True)
    monkeypatch.setattr(model.hf, "active_peft_config", adapter, raising=False)
    with pytest.raises(PlanError, match="virtual tokens"), getattr(Plan(ADD), form)(model):
        pass
    adapter.is_prompt_learning = False
    with getattr(Plan(ADD), form)(model):
        model.generate("rain", max_new_tokens=1)


@pytest.mark.parametrize("wrong", ["2", None, [1.0], float("nan")])
def test_a_strength_is_a_finite_number(wrong: object) -> None:
    with pytest.raises(PlanError, match="not a finite number"):
        finite_strength(wrong)
