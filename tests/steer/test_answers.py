"""Decoding steps in which a sole plan adds vectors do what the longer way does, and note it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch

from saesteer import steer
from saesteer.models import Model, Site
from saesteer.models.layout import layout_of
from saesteer.steer import Plan, Trace
from saesteer.steer.session import session_of
from saesteer.steer.steady import SteadySite

SITES = ("resid_post.0", "resid_post.1")


def _plan(scale: float = 1.0) -> Plan:
    generator = torch.Generator().manual_seed(0)
    return Plan(*(steer.add(s, scale * torch.randn(32, generator=generator)) for s in SITES))


@pytest.fixture
def slow_visits(monkeypatch: pytest.MonkeyPatch) -> list[Site]:
    """The sites that steady plans visit the longer way, one entry a visit."""
    seen: list[Site] = []
    visit = SteadySite.visit

    def noted(self: SteadySite, *args: Any) -> Any:
        seen.append(self.site)
        return visit(self, *args)

    monkeypatch.setattr(SteadySite, "visit", noted)
    return seen


def _generated(model: Model, rows: int) -> torch.Tensor:
    """The logits of 12 greedy tokens."""
    ids = torch.randint(5, 60, (rows, 6), generator=torch.Generator().manual_seed(rows))
    with torch.no_grad():
        out = model.hf.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return torch.stack(out.logits)


def _told(
    model: Model, rows: int = 1, before: Callable[[], Any] = list
) -> tuple[torch.Tensor, Trace]:
    """The same under the plan."""
    with _plan().on(model) as trace:
        before()
        return _generated(model, rows), trace


def _longer(model: Model) -> Callable[[], None]:
    """Sends every step of what is attached the longer way."""

    def close() -> None:
        for visitor in session_of(model).visitors:
            visitor._answers.n_sites = 0

    return close


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_quick_way_does_and_notes_the_same(
    tiny_model: Any, slow_visits: list[Site], rows: int, dtype: torch.dtype
) -> None:
    known = tiny_model("llama")
    hf = deepcopy(known.hf).to(dtype)
    model = Model(hf, known.tokenizer, "narrow", layout_of(hf))
    quick, trace = _told(model, rows)
    n_quick = len(slow_visits)
    slow, long = _told(model, rows, _longer(model))
    assert n_quick == len(SITES)  # the prompt
    assert len(slow_visits) - n_quick == 12 * len(SITES)
    assert torch.equal(quick, slow)
    assert trace.fired == long.fired
    assert trace.dose() == pytest.approx(long.dose(), rel=1e-6)
    for one, other in zip(trace.passes, long.passes, strict=True):
        assert list(one.sites) == list(other.sites)
        for site in one.sites:
            torch.testing.assert_close(one.norms[site], other.norms[site])
            assert torch.equal(one.touched[site], other.touched[site])


def test_a_trace_is_whole_while_a_pass_is_under_way(tiny_model: Any) -> None:
    """Whoever asks in the middle of a step gets what has been done, and the rest later."""
    model, seen = tiny_model("llama"), []

    with _plan().on(model) as trace:
        layer = model.hf.model.layers[1]
        look = layer.register_forward_pre_hook(
            lambda *_: seen.append(list(trace.passes[-1].sites)) if trace.passes else None
        )
        with torch.no_grad():
            ids = torch.randint(5, 60, (1, 6), generator=torch.Generator().manual_seed(1))
            model.hf.generate(input_ids=ids, max_new_tokens=5, do_sample=False)
        look.remove()
    assert seen == [[Site.parse(SITES[0])]] * 5
    assert [len(record.sites) for record in trace.passes] == [2] * 5


def test_what_may_not_act_does_not_in_the_middle_of_a_step(tiny_model: Any) -> None:
    """A hook that looks at the model without steering gets it, and the step goes on steered."""
    model, plain, inside = tiny_model("llama"), [], []
    ids = torch.randint(5, 60, (1, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = model.hf(input_ids=ids).logits
    busy = False

    def look(*_: Any) -> None:
        nonlocal busy
        if not busy:
            busy = True
            with steer.unsteered(model):
                inside.append(model.hf(input_ids=ids).logits)
            busy = False

    with _plan().on(model) as trace, torch.no_grad():
        handle = model.hf.model.layers[1].register_forward_pre_hook(look)
        model.hf.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
        handle.remove()
    assert len(inside) == 4
    assert all(torch.equal(one, plain) for one in inside)
    assert all(len(record.sites) == 2 for record in trace.passes)


def test_two_threads_do_not_share_a_step(tiny_model: Any) -> None:
    """Both steer, both leave whole records; only one of them goes the quick way."""
    model = tiny_model("llama")
    alone = {rows: _told(model, rows)[0] for rows in (1, 2)}
    found: dict[int, torch.Tensor] = {}
    gate = threading.Barrier(2)

    def run(rows: int) -> None:
        gate.wait()
        found[rows] = _generated(model, rows)

    with _plan().on(model) as trace:
        threads = [threading.Thread(target=run, args=(rows,)) for rows in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for rows, logits in alone.items():
        assert torch.equal(found[rows], logits)
    assert sorted(len(record.live) for record in trace.passes) == [1] * 12 + [2] * 12
    assert all(len(record.sites) == 2 for record in trace.passes)
    assert all(
        known.shape == record.live.shape
        for record in trace.passes
        for known in record.norms.values()
    )


def test_a_second_plan_at_a_site_is_not_passed_over(tiny_model: Any) -> None:
    model = tiny_model("llama")
    ids = torch.randint(5, 60, (1, 6), generator=torch.Generator().manual_seed(1))
    given = {"input_ids": ids, "max_new_tokens": 6, "do_sample": False}
    with torch.no_grad(), _plan().on(model), _plan(2.0).on(model) as trace:
        both = model.hf.generate(**given)
    with torch.no_grad(), (_plan() + _plan(2.0)).on(model):
        assert torch.equal(model.hf.generate(**given), both)
    assert [len(record.sites) for record in trace.passes] == [2] * 6
