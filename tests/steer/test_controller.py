"""Schedules that read activations: causal, checked, saved, and the same with a cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from saesteer.errors import DimensionError, PlanError
from saesteer.models import Model, Site, record
from saesteer.steer import Edit, Plan, add, low_rank
from saesteer.steer import all as everywhere
from saesteer.steer.controller import Controller, levelled

READ = Site.parse("resid_post.1")


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Model]) -> Model:
    return tiny_model("llama")


def parts(width: int, edits: int = 2, hidden: int = 6) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    shapes = ((hidden, width), (hidden,), (1 + edits, hidden), (1 + edits,))
    return tuple(torch.randn(*shape, generator=draw) for shape in shapes)


def plan(model: Model, at: str = "resid_post.2") -> Plan:
    network = parts(model.d_model)
    vector = torch.ones(model.d_model)
    acts = [
        Edit(add(at, vector), everywhere(), schedule=Controller((READ,), *network, edit=index))
        for index in range(2)
    ]
    return Plan(*acts)


def test_an_edit_is_as_strong_as_its_position_says(model: Model) -> None:
    batch = model.tokenize(["some words", "other and longer words"])
    hidden, hidden_bias, out, out_bias = parts(model.d_model)
    site = Site.parse("resid_post.2")
    with torch.no_grad():
        x = levelled(record(model, batch, [READ])[READ])
        logits = torch.relu(x @ hidden.T + hidden_bias) @ out.T + out_bias
        sigma = torch.sigmoid(logits)
        expected = sigma[..., 0] * (sigma[..., 1] + sigma[..., 2])
        plain = record(model, batch, [site])[site]
        with plan(model).on(model):
            steered = record(model, batch, [site])[site]
    moved = (steered - plain).mean(-1)[batch.attention_mask]
    assert torch.allclose(moved, expected[batch.attention_mask], atol=1e-4)
    assert float(expected.std()) > 0.01


def test_an_edit_before_what_its_schedule_reads_is_refused(model: Model) -> None:
    with (
        pytest.raises(PlanError, match=r"it reads resid_post.1, which a pass reaches after"),
        plan(model, "resid_post.0").on(model),
    ):
        pass


def test_a_saved_controller_is_the_same_and_shares_its_tensors(
    model: Model, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    made = plan(model)
    made.save(tmp_path / "plan", model)
    assert len(load_file(tmp_path / "plan" / "tensors.safetensors")) <= 4 + 2
    loaded = Plan.load(tmp_path / "plan", model)
    texts = []
    for each in (made, loaded):
        with each.on(model):
            texts.append(model.forward(model.tokenize("some words")).detach())
    assert torch.equal(*texts)


def test_parts_that_make_no_network_are_refused(model: Model) -> None:
    network = parts(model.d_model)
    with pytest.raises(DimensionError, match="don't make a network with a weight for edit 2"):
        Controller((READ,), *network, edit=2)
    with pytest.raises(DimensionError, match="don't make a network"):
        Controller((READ,), network[0], network[1][:-1], *network[2:], edit=0)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 8), (3,), (2, 8)), r"read \[2, 8\], bias \[3\] and write \[2, 8\] don't fit"),
        (((2, 8), (2,), (2, 7)), "don't fit together"),
        (((8,), (8,), (8,)), "don't fit together"),
    ],
)
def test_low_rank_maps_that_don_t_fit_are_refused(shapes: Any, message: str) -> None:
    with pytest.raises(DimensionError, match=message):
        low_rank("resid_post.1", *(torch.ones(*shape) for shape in shapes))


def test_a_low_rank_map_with_nan_is_refused() -> None:
    bad = torch.full((1, 4), float("nan"))
    with pytest.raises(PlanError, match="low_rank: the tensor holds NaN or infinity"):
        low_rank("resid_post.1", bad, torch.ones(1), torch.ones(1, 4))
