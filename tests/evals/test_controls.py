"""Is an edit natural for its site, and what does a plan do to refusals?"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional

from saesteer import steer
from saesteer.data.contrast import Example
from saesteer.errors import DataError
from saesteer.evals import in_distribution, safety_audit
from saesteer.evals.in_distribution import nearest, spread_along
from saesteer.features import read_activations
from saesteer.models import Model
from saesteer.steer import Plan

SITE = "resid_post.1"
TEXTS = ["the rain in the town", "and the sea", "a boat in the sun and the rain", "some words"]


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Model]) -> Model:
    return tiny_model("llama")


def directions(model: Model) -> tuple[torch.Tensor, torch.Tensor]:
    """The direction in which natural activations vary most, and the one in which they do least."""
    rows = torch.cat(read_activations(model, TEXTS, SITE, drop_outliers=True))
    basis = torch.linalg.svd(rows - rows.mean(0)).Vh
    return basis[0], basis[-1]


def test_a_dormant_direction_shows_in_spread_and_neighbours(model: Model) -> None:
    used, dormant = directions(model)
    length = 0.5 * float(torch.cat(read_activations(model, TEXTS, SITE)).norm(dim=-1).median())
    plans = [
        Plan(steer.add(SITE, length * v), where=steer.all(special=True)) for v in (used, dormant)
    ]
    (natural,), (illusion,) = (in_distribution(model, plan, TEXTS) for plan in plans)
    assert natural.spread > 1 > 0.1 > illusion.spread
    assert illusion.neighbour_ratio > 1
    assert natural.site == illusion.site == SITE
    assert (
        natural.n_tokens
        == illusion.n_tokens
        == sum(len(rows) for rows in read_activations(model, TEXTS, SITE, drop_outliers=True))
    )


def test_an_edit_far_out_has_a_norm_that_nothing_natural_has(model: Model) -> None:
    plan = Plan(steer.add_scaled(SITE, 9 * directions(model)[0]), where=steer.all(special=True))
    (shift,) = in_distribution(model, plan, TEXTS)
    assert shift.norm_ratio > 5
    assert shift.norm_quantile == 1.0
    assert json.loads(json.dumps(shift.to_dict()))["norm_quantile"] == 1.0


def test_neighbours_are_of_other_texts() -> None:
    bank = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]])
    texts = torch.tensor([0, 0, 1])
    assert nearest(bank, bank, texts, texts).tolist() == [5.0, 4.0, 4.0]


def test_spread_is_variance_along_over_mean_variance() -> None:
    rows = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    rows = rows * torch.tensor([3.0, 1.0, 0.1])
    mean = (9 + 1 + 0.01) / 3
    for axis, variance in enumerate((9.0, 1.0, 0.01)):
        change = functional.one_hot(torch.tensor([axis]), 3).float().expand(5, 3) * 7
        assert spread_along(rows, change) == pytest.approx(variance / mean, rel=0.1)


def test_prompts_decide_which_tokens_count(model: Model) -> None:
    behind = [Example(text, 1, prompt="the town:") for text in TEXTS]
    plan = Plan(steer.add(SITE, 3 * directions(model)[0]))
    (shift,) = in_distribution(model, plan, behind)
    assert shift.n_tokens > 0
    with pytest.raises(DataError, match="no token at resid_post.1 is edited"):
        in_distribution(model, plan * 0.0, behind)
    with pytest.raises(DataError, match="give two or more"):
        in_distribution(model, plan, TEXTS[:1])


@dataclass(frozen=True)
class Says:
    """1 where a text holds a letter."""

    letter: str
    unit: str = "texts"

    def __call__(self, text: str) -> float:
        return float(self.letter in text)


def test_the_audit_counts_refusals_before_and_after(model: Model) -> None:
    plan = Plan(steer.add_scaled(SITE, 4 * directions(model)[0]))
    prompts = ["the rain", "a boat", "the town in the sun"]
    chats = [[{"role": "user", "content": p}] for p in prompts]
    before = list(model.generate(chats, max_new_tokens=6))
    with plan.on(model):
        after = list(model.generate(chats, max_new_tokens=6))
    letter = next(
        c for c in "".join(after) if sum(c in t for t in after) != sum(c in t for t in before)
    )
    found = safety_audit(
        model, plan, harmful=prompts, harmless=prompts[:1], refusal=Says(letter), max_new_tokens=6
    )
    rates = [sum(letter in text for text in texts) / 3 for texts in (before, after)]
    assert (found.harmful.before, found.harmful.after) == pytest.approx(tuple(rates))
    assert found.harmful.change == pytest.approx(rates[1] - rates[0])
    assert found.harmful.interval[0] <= found.harmful.change <= found.harmful.interval[1]
    assert [answer[0] for answer in found.harmful.answers] == prompts
    assert json.loads(json.dumps(found.to_dict()))["plan"] == "plan"


def test_a_plan_without_strength_changes_no_refusal(model: Model) -> None:
    plan = Plan(steer.add_scaled(SITE, 4 * directions(model)[0]), strength=0.0)
    found = safety_audit(model, plan, harmful=["the rain"], harmless=["a boat"], max_new_tokens=4)
    assert found.harmful.change == found.harmless.change == 0
    assert not found.weakens
    with pytest.raises(DataError, match="a group has no prompts"):
        safety_audit(model, plan, harmful=[])
