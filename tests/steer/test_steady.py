"""The short way through a site that adds one vector does what the long way does, to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from saesteer import steer
from saesteer.models import Model, Site
from saesteer.models.layout import layout_of
from saesteer.steer import Edit, Frame, Plan, Where
from saesteer.steer.engine import Attachment
from saesteer.steer.gate import Always, Gate
from saesteer.steer.ids import FEW, Ids

SITES = ("resid_post.0", "head_out.1", "resid_post.1")


@dataclass(frozen=True, eq=False)
class Open:
    """Always open, but not known to be, so that its edits go the long way."""

    sites: tuple[Site, ...] = ()

    def new_state(self) -> object:
        return None

    def open(self, _readings: Mapping[Site, Any], frame: Frame, _state: Any) -> torch.Tensor:
        return torch.ones_like(frame.valid)


def _plan(where: Where, gate: Gate | None = None, n: int = 1) -> Plan:
    generator = torch.Generator().manual_seed(0)
    acts = [
        Edit(
            steer.add(site, torch.randn(32, generator=generator)),
            where,
            gate or Always(),
            strength=0.7,
        )
        for site in SITES
        for _ in range(n)
    ]
    return Plan(*acts)


def _batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 60, (3, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]])
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("where", [steer.all(special=True), steer.positions([1, 3])], ids=str)
def test_the_short_way_equals_the_long_way(
    tiny_model: Any, dtype: torch.dtype, n: int, where: Where
) -> None:
    known = tiny_model("llama")
    hf = deepcopy(known.hf).to(dtype)
    model = Model(hf, known.tokenizer, "narrow", layout_of(hf))
    found, traces = [], []
    for gate in (None, Open()):
        with _plan(where, gate, n).on(model) as trace, torch.no_grad():
            found.append(model.hf(**_batch()).logits)
        traces.append(trace)
    assert torch.equal(*found)
    short, long = (trace.passes[0] for trace in traces)
    assert list(short.sites) == list(long.sites) == [Site.parse(site) for site in SITES]
    for site in short.sites:
        torch.testing.assert_close(short.norms[site], long.norms[site])
        assert torch.equal(short.touched[site], long.touched[site])
        on = long.touched[site]
        torch.testing.assert_close(short.moved[site][on], long.moved[site][on])
    assert [d.edit for d in short.deeds] == [d.edit for d in long.deeds]
    assert traces[0].fired == traces[1].fired
    doses = [[trace.edit_dose(i) for i in range(3 * n)] for trace in traces]
    assert doses[0] == pytest.approx(doses[1], rel=1e-4)


def test_only_what_is_known_beforehand_goes_the_short_way(tiny_model: Any) -> None:
    """A gate, a schedule, an edit that reads the text, or two choices of positions at one site."""
    model, vector = tiny_model("llama"), torch.ones(32)
    add, other = steer.add("resid_post.1", vector), steer.positions([0])
    long = [
        Plan(Edit(add, gate=Open())),
        Plan(Edit(add, schedule=steer.decay(2))),
        Plan(steer.add_scaled("resid_post.1", vector, 1.0)),
        Plan(Edit(add), Edit(add, other)),
    ]
    assert not any(Attachment(plan, model)._steady for plan in long)
    assert Attachment(Plan(Edit(add), Edit(add)), model)._steady


def test_only_outputs_wait_for_the_end_of_the_pass(tiny_model: Any) -> None:
    """A caller may write into what it has given a module."""
    steady = Attachment(_plan(steer.all()), tiny_model("llama"))._steady
    waits = {str(site): found.waits for site, found in steady.items()}
    assert waits == {"resid_post.0": True, "head_out.1": False, "resid_post.1": True}


def test_no_activation_is_kept_once_its_norm_is_known(tiny_model: Any) -> None:
    model = tiny_model("llama")
    with _plan(steer.all()).on(model) as trace, torch.no_grad():
        model.hf(**_batch())
    (record,) = trace.passes
    assert len(record.norms) == 3
    assert not record.kept


def test_a_few_tokens_without_special_ones_are_not_looked_up() -> None:
    ids = Ids([3, 4], [70])
    assert ids.among(torch.tensor([[5, 6]])) == (None, None)
    three, seventy = ids.among(torch.tensor([[3, 6]]))
    assert three is not None
    assert seventy is not None
    assert three.tolist() == [[True, False]]
    assert not seventy.any()
    many = ids.among(torch.full((1, FEW + 1), 5))
    assert all(mask is not None and not mask.any() for mask in many)
