"""Histories keep columns, follow rows, and let a rolled-back column be overwritten."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from saesteer import steer
from saesteer.errors import PlanError
from saesteer.models import Site
from saesteer.steer import Always, ColumnHistory, Edit, Frame, Gate, Plan


def frame(start: int, n: int, batch: int = 1) -> Frame:
    return Frame.of(torch.full((batch, n), 5), start=start)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[None, :, None]


def test_a_history_grows_by_passes() -> None:
    history = ColumnHistory()
    history.write(frame(0, 3), column(1, 2, 3))
    history.write(frame(3, 1), column(4))
    assert history.so_far(frame(3, 1))[0, :, 0].tolist() == [1, 2, 3, 4]
    assert history.so_far(frame(0, 2))[0, :, 0].tolist() == [1, 2]


def test_a_rollback_is_overwritten() -> None:
    history = ColumnHistory()
    history.write(frame(0, 2), column(1, 2))
    history.write(frame(2, 3), column(7, 8, 9))
    history.write(frame(3, 1), column(5))
    assert history.so_far(frame(3, 1))[0, :, 0].tolist() == [1, 2, 7, 5]


def test_columns_that_were_never_seen_hold_the_fill() -> None:
    history = ColumnHistory(fill=-1.0)
    history.write(frame(2, 1), column(5))
    assert history.so_far(frame(2, 1))[0, :, 0].tolist() == [-1, -1, 5]


def test_rows_are_followed() -> None:
    history = ColumnHistory()
    history.select_rows(torch.tensor([0]))
    history.write(frame(0, 1, 3), torch.tensor([[[1.0]], [[2.0]], [[3.0]]]))
    history.select_rows(torch.tensor([2, 2, 0]))
    assert history.so_far(frame(0, 1, 3))[:, 0, 0].tolist() == [3, 3, 1]
    with pytest.raises(PlanError, match="continues a text of 3"):
        history.write(frame(1, 1, 2), torch.zeros(2, 1, 1))


def test_reading_before_writing_is_an_error() -> None:
    with pytest.raises(PlanError, match="write first"):
        ColumnHistory().so_far(frame(0, 1))


class Counting:
    """A gate that counts how often it is asked."""

    def __init__(self, *sites: Site) -> None:
        self.sites = sites
        self.asked = 0
        self.read: list[torch.Tensor] = []

    def new_state(self) -> object:
        return None

    def open(self, readings: Any, frame: Frame, state: Any) -> torch.Tensor:
        self.asked += 1
        self.read += [readings[site] for site in self.sites]
        return frame.logical % 2 == 0


def test_protocols() -> None:
    assert isinstance(Counting(), Gate)
    assert isinstance(Always(), Gate)
    assert not isinstance(3, Gate)


def test_a_shared_gate_is_asked_once_per_pass_and_reads_before_the_edits(tiny_model: Any) -> None:
    model, ids = tiny_model("llama"), torch.tensor([[5, 6, 7, 8, 9]])
    site = Site(1, "resid_post")
    probe = Counting(site)
    with Plan(steer.add(site, torch.zeros(32)), where=steer.all(), gate=probe).on(model):
        model.hf(ids)
    gate = Counting(site)
    edits = [steer.add(s, torch.ones(32)) for s in ("resid_post.1", "resid_post.1", "resid_pre.3")]
    with Plan(*edits, where=steer.all(), gate=gate).on(model) as trace:
        model.hf(ids)
        model.hf(ids)
    assert gate.asked == 2
    assert torch.equal(gate.read[0], probe.read[0])
    assert trace.n_edited == 2 * 3
    assert trace.passes[0].touched[site].tolist() == [[True, False, True, False, True]]


def test_a_gate_that_reads_after_its_edit_is_refused(tiny_model: Any) -> None:
    gate = Counting(Site(2, "resid_post"))
    early = Plan(Edit(steer.add("resid_post.1", torch.ones(32)), gate=gate))
    with pytest.raises(PlanError, match=r"reads resid_post\.2.*after resid_post\.1"):
        early.attach(tiny_model("llama"))
    later = Plan(Edit(steer.add("resid_pre.3", torch.ones(32)), gate=gate))
    with later.on(tiny_model("llama")):
        pass
