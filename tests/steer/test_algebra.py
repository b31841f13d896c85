"""The algebra of plans, as what they do to a model's logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saesteer import steer
from saesteer.errors import PlanError
from saesteer.models import Model
from saesteer.steer import Edit, Plan, PromptEdit, WeightEdit

IDS = torch.tensor([[5, 6, 7, 8, 9]])
SITES = ("resid_post.0", "resid_post.1", "resid_mid.1", "mlp_out.2", "attn_out.1")
WEIGHT = "model.layers.1.mlp.up_proj.weight"
numbers = st.floats(-3, 3, allow_nan=False, width=16)


def vector(seed: int, width: int = 32) -> Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def act(kind: str, site: str, seed: int, strength: float) -> Edit | WeightEdit:
    """One act of a kind that reads the activation, or does not, or changes a weight."""
    match kind:
        case "add":
            made = steer.add(site, vector(seed))
        case "project":
            made = steer.project_out(site, vector(seed))
        case "affine":
            made = steer.affine(site, 1 + 0.3 * vector(seed), vector(seed + 1))
        case _:
            return WeightEdit(WEIGHT, vector(seed, 64)[:, None], vector(seed + 1)[None])
    return Edit(made, where=steer.all(special=True), strength=strength)


acts = st.tuples(
    st.sampled_from(["add", "project", "affine", "weight"]),
    st.sampled_from(SITES),
    st.integers(0, 99),
    numbers,
)
Drawn = tuple[list[tuple[str, str, int, float]], float]
plans = st.tuples(st.lists(acts, max_size=3), numbers)
Run = Callable[[Plan], Tensor]


def made(drawn: Drawn) -> Plan:
    """The plan that was drawn; not made while drawing, where nothing random may run."""
    parts, strength = drawn
    return Plan(*(act(*part) for part in parts), strength=strength)


@pytest.fixture(scope="module")
def run(tiny_model: Callable[..., Model]) -> Run:
    model = tiny_model("llama")

    def logits(plan: Plan) -> Tensor:
        with plan.on(model), torch.no_grad():
            return model.hf(IDS).logits

    return logits


def close(a: Tensor, b: Tensor) -> None:
    assert (a - b).abs().max() <= 2e-5 * a.abs().max()


few = settings(max_examples=40, deadline=None)


@few
@given(x=plans, y=plans, z=plans)
def test_sums_don_t_ask_for_brackets(run: Run, x: Drawn, y: Drawn, z: Drawn) -> None:
    a, b, c = made(x), made(y), made(z)
    left, right = (a + b) + c, a + (b + c)
    assert torch.equal(run(left), run(right))
    assert torch.equal(run(left), run(sum([a, b, c])))


@few
@given(x=plans, y=plans, k=numbers)
def test_scaling_reaches_every_part(run: Run, x: Drawn, y: Drawn, k: float) -> None:
    a, b = made(x), made(y)
    close(run((a + b) * k), run(a * k + b * k))


@few
@given(x=plans, j=numbers, k=numbers)
def test_factors_multiply(run: Run, x: Drawn, j: float, k: float) -> None:
    a = made(x)
    close(run((a * j) * k), run(a * (j * k)))


@few
@given(x=plans, y=plans)
def test_nothing_adds_nothing(run: Run, x: Drawn, y: Drawn) -> None:
    a, b, plain = made(x), made(y), run(Plan())
    assert torch.equal(run(a * 0.0), plain)
    close(run(a + b * 0.0), run(a))
    close(run(Plan() + a), run(a))


@few
@given(x=plans)
def test_a_plan_less_itself_is_no_plan(run: Run, x: Drawn) -> None:
    """All edits of a site read the same activation, so opposite ones cancel."""
    a = made(x)
    close(run(Plan()), run(a - a))
    assert torch.equal(run(-a), run(a * -1.0))
    close(run(Plan() - -a), run(a))


@few
@given(x=plans, y=plans)
def test_order_is_kept_and_within_one_plan_does_not_matter(run: Run, x: Drawn, y: Drawn) -> None:
    a, b = made(x), made(y)
    names = [edit.label for edit in (a + b).edits]
    assert names == [edit.label for plan in (a, b) for edit in plan.edits]
    close(run(a + b), run(b + a))


def test_order_matters_between_attached_plans(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("llama")
    push = Plan(act("add", "resid_post.1", 1, 3.0))
    remove = Plan(act("project", "resid_post.1", 1, 1.0))
    outputs = []
    for first, second in ((push, remove), (remove, push)):
        with first.on(model), second.on(model), torch.no_grad():
            outputs.append(model.hf(IDS).logits)
    assert (outputs[0] - outputs[1]).abs().max() > 1e-2 * outputs[0].abs().max()


def test_names() -> None:
    plan = Plan(steer.add("resid_post.1", vector(1)), strength=2.0, name="calm")
    renamed = plan.named("calmer")
    assert (renamed.name, renamed.strength, renamed.edits) == ("calmer", 2.0, plan.edits)
    assert (plan + renamed).name == "calm + calmer"
    assert (-plan).name == "calm"


def test_plans_of_different_models_are_not_added() -> None:
    push = steer.add("resid_post.1", vector(1))
    one, other = (
        Plan(push, name=name, stamp={"model": name, "weights": f"{name}0", "tokenizer": "t"})
        for name in ("calm", "bold")
    )
    for add in (lambda: one + other, lambda: one - other, lambda: sum([one, other])):
        with pytest.raises(
            PlanError, match=r"calm and bold.* other weights \(calm, calm0, and bold"
        ):
            add()
    renamed = Plan(push, stamp={**one.stamp, "model": "a folder"})
    assert (
        (one + renamed).stamp == (one + Plan(push)).stamp == (Plan(push) + one).stamp == one.stamp
    )


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(PlanError, match="can't be negated"):
        -Plan(PromptEdit(prefix="the "))
    with pytest.raises(PlanError, match="can't be negated"):
        Plan() - Plan(PromptEdit(prefix="the "))
    for wrong in (lambda: 1 + Plan(), lambda: Plan() + 3, lambda: Plan() - 3):
        with pytest.raises(TypeError):
            wrong()
