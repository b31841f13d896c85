"""A plan with its directions lost keeps size, places and strength, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from saesteer.steer import Edit, Plan, WeightEdit, add, affine, generated, last

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def model(tiny_model):
    return tiny_model("llama")


def test_vectors_keep_their_lengths_and_angles(model) -> None:
    from every_method_controls import scrambled

    width = model.d_model
    one, two = torch.randn(2, width, generator=torch.Generator().manual_seed(0))
    plan = Plan(Edit(add("resid_post.1", one)), Edit(add("resid_post.1", two), last()), strength=3)
    lost = scrambled(plan, model, 0)
    assert lost is not None
    assert lost.strength == 3
    assert [edit.where for edit in lost.edits] == [generated(), last()]
    first, second = (edit.intervention.constant() for edit in lost.edits)
    assert first is not None
    assert second is not None
    assert first.norm() == pytest.approx(one.norm().item(), rel=1e-5)
    assert first @ second == pytest.approx((one @ two).item(), rel=1e-4)
    assert abs(torch.cosine_similarity(first, one, dim=0)) < 0.6
    resid = torch.zeros(1, 2, width)
    assert torch.equal(lost.edits[0].intervention.delta(resid)[0, 1], first)


def test_dampened_neurons_are_as_many_and_others(model) -> None:
    from every_method_controls import scrambled

    width = model.layout.width(model.check_site("neurons.0"))
    factors = torch.ones(width)
    factors[:5] = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8])
    lost = scrambled(Plan(affine("neurons.0", factors, torch.zeros(width))), model, 1)
    assert lost is not None
    weight = lost.edits[0].intervention.weight
    assert torch.equal(weight.sort().values, factors.sort().values)
    assert not torch.equal(weight, factors)


def test_a_projection_of_the_output_layer_is_put_on_random_directions(model) -> None:
    from every_method_controls import scrambled

    weight = model.layout.unembed.weight.detach().float()
    basis = torch.linalg.qr(torch.randn(weight.shape[1], 3)).Q
    edit = WeightEdit("lm_head.weight", -0.9 * weight @ basis, basis.T.contiguous(), untie=True)
    lost = scrambled(Plan(edit), model, 0)
    assert lost is not None
    (drawn,) = lost.weight_edits
    assert drawn.right is not None
    assert torch.allclose(drawn.right @ drawn.right.T, torch.eye(3), atol=1e-5)
    assert torch.allclose(drawn.change, -0.9 * weight @ drawn.right.T, atol=1e-4)
    assert (drawn.right @ basis).abs().max() < 0.95


def test_a_prompt_has_no_such_control(model) -> None:
    from every_method_controls import scrambled

    from saesteer.steer import PromptEdit

    assert scrambled(Plan(prompt=PromptEdit("Be kind. ")), model, 0) is None
