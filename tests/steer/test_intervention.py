"""Interventions as pure functions: what they add, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from saesteer import steer
from saesteer.errors import DimensionError, PlanError
from saesteer.steer import Intervention

SITE, WIDTH = "resid_post.1", 8
RESID = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))
VECTOR = torch.arange(1.0, 1.0 + WIDTH)


def dense() -> list[Intervention]:
    weight = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1))
    return [
        steer.add(SITE, VECTOR),
        steer.add_scaled(SITE, VECTOR, typical_norm=2.0),
        steer.project_out(SITE, VECTOR),
        steer.project_out(SITE, torch.stack([VECTOR, torch.ones(WIDTH)])),
        steer.affine(SITE, weight, VECTOR),
    ]


@pytest.mark.parametrize("edit", dense(), ids=lambda e: e.describe())
def test_every_token_is_edited_as_if_it_were_alone(edit: Intervention) -> None:
    whole = edit.delta(RESID)
    for row in range(2):
        for pos in range(5):
            alone = edit.delta(RESID[row, pos][None, None])
            assert torch.allclose(alone[0, 0], whole[row, pos], atol=1e-5)


@pytest.mark.parametrize("edit", dense(), ids=lambda e: e.describe())
def test_arithmetic_is_fp32_from_any_dtype(edit: Intervention) -> None:
    rough = RESID.bfloat16()
    assert edit.delta(rough).dtype == torch.float32
    assert torch.equal(edit.delta(rough), edit.delta(rough.float()))


def test_what_each_of_them_adds() -> None:
    add, scaled, out, _, affine = dense()
    assert torch.equal(add.delta(RESID), VECTOR.expand_as(RESID))
    norms = RESID.norm(dim=-1, keepdim=True)
    assert torch.allclose(scaled.delta(RESID), norms * VECTOR)
    assert (((RESID + out.delta(RESID)) @ VECTOR).abs() < 1e-4).all()
    assert torch.allclose(
        RESID + affine.delta(RESID), RESID @ affine.weight.T + affine.bias, atol=1e-5
    )


def test_outliers_are_held_to_the_typical_norm() -> None:
    resid = RESID.clone()
    resid[0, 0] *= 1000
    edit = steer.add_scaled(SITE, VECTOR / VECTOR.norm(), typical_norm=3.0)
    sizes = edit.delta(resid).norm(dim=-1)
    assert sizes[0, 0] == pytest.approx(3.0)
    assert torch.allclose(sizes[1], resid[1].norm(dim=-1))
    with pytest.raises(PlanError, match="typical_norm"):
        steer.add_scaled(SITE, VECTOR).delta(resid)


def test_projecting_out_twice_is_projecting_out_once() -> None:
    once = RESID + steer.project_out(SITE, VECTOR).delta(RESID)
    assert steer.project_out(SITE, VECTOR).delta(once).abs().max() < 1e-4


def test_replacing_puts_the_reconstruction_in_and_lets_outliers_pass(
    tiny_model: Any, tiny_sae: Any
) -> None:
    sae = tiny_sae(tiny_model("llama"), "resid_post.2")
    resid = torch.randn(1, 4, sae.d_model)
    resid[0, 2] *= 500
    delta = steer.replace(sae, typical_norm=float(sae.d_model) ** 0.5).delta(resid)
    keep = torch.tensor([0, 1, 3])
    assert torch.allclose((resid + delta)[:, keep], sae(resid)[:, keep], atol=1e-5)
    assert torch.equal(delta[0, 2], torch.zeros(sae.d_model))


def test_a_vector_is_copied() -> None:
    vector = VECTOR.clone()
    edit = steer.add(SITE, vector)
    vector.zero_()
    assert torch.equal(edit.delta(RESID)[0, 0], VECTOR)


def test_a_map_of_each_coordinate_is_the_diagonal_map() -> None:
    weight = torch.linspace(-1, 2, WIDTH)
    each, whole = (steer.affine(SITE, w, VECTOR) for w in (weight, torch.diag(weight)))
    assert type(each) is not type(whole)
    assert torch.allclose(each.delta(RESID), whole.delta(RESID), atol=1e-5)
    same = steer.affine(SITE, torch.ones(WIDTH), torch.zeros(WIDTH))
    assert torch.equal(same.delta(RESID), torch.zeros_like(RESID))
    for n in (1, WIDTH):
        some = torch.where(torch.arange(WIDTH) < n, 2.0, 1.0)
        told = f"affine map of {n} coordinate" + "s" * (n > 1)
        assert steer.affine(SITE, some, torch.zeros(WIDTH)).describe() == told
    with pytest.raises(DimensionError, match="expected"):
        steer.affine(SITE, torch.ones(WIDTH + 1), VECTOR)


def test_vectors_may_be_arrays_or_lists() -> None:
    numbers = [0.5, -1.0, 2.0]
    for given in (numbers, np.array(numbers)):
        assert torch.equal(steer.add("resid_post.1", given).vector, torch.tensor(numbers))
        expected = steer.project_out("resid_post.1", torch.tensor(numbers)).basis
        assert torch.equal(steer.project_out("resid_post.1", given).basis, expected)
