"""The trace counts what happened, and says why."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from saesteer import steer
from saesteer.errors import PlanError, SiteError
from saesteer.models import Model, Site
from saesteer.steer import Edit, Frame, Plan, Trace, late_norms

UNIT = torch.nn.functional.normalize(torch.ones(32), dim=0)


def test_the_dose_is_what_was_asked_for(tiny_model: Any) -> None:
    model = tiny_model("llama")
    with Plan(steer.add_scaled("resid_post.1", UNIT), strength=0.3).on(model) as trace:
        model.generate(["the rain in the town", "sea"], max_new_tokens=5, eos_token_id=None)
    assert trace.dose() == pytest.approx(0.3, abs=1e-4)
    assert trace.n_edited == 10
    assert trace.n_positions > 10


def test_outliers_are_out_of_the_dose(tiny_model: Any) -> None:
    model = tiny_model("llama")
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    spike = Plan(Edit(steer.add("resid_post.0", 1e5 * UNIT), where=steer.positions([0])))
    edit = Plan(steer.add("resid_post.1", UNIT), where=steer.all())
    with edit.on(model) as plain, torch.no_grad():
        model.hf(ids)
    with spike.on(model), edit.on(model) as spiked, torch.no_grad():
        model.hf(ids)
    (record,) = spiked.passes
    (norms,) = record.norms.values()
    assert norms[0, 0] > 100 * norms[0, 1]
    ratios = 1.0 / norms[0, 1:]
    assert spiked.dose() == pytest.approx(float(ratios.mean()), rel=1e-4)
    assert plain.dose() != pytest.approx(spiked.dose(), rel=1e-2) or norms[0, 1:].std() < 1


LATE = Plan(steer.add("resid_post.1", UNIT), steer.add("resid_post.2", UNIT), name="two sites")


def seen(model: Model, *calls: list[str], n_new: int = 4) -> list[Any]:
    """Dose, edited positions and counts, of these calls under one plan that is left on."""
    with LATE.on(model) as trace:
        for prompts in calls:
            model.generate(prompts, max_new_tokens=n_new, eos_token_id=None)
    return [trace.dose(), trace.n_edited, trace.fired]


def test_calls_of_other_batch_sizes_are_all_counted(tiny_model: Any) -> None:
    model, two, one = tiny_model("llama"), ["the rain", "the sea"], ["the town"]
    dose, n_edited, fired = seen(model, two, one)
    apart = [seen(model, two), seen(model, one)]
    assert n_edited == sum(part[1] for part in apart)
    assert fired == {label: sum(part[2][label] for part in apart) for label in fired}
    assert dose == pytest.approx(sum(part[0] * part[1] for part in apart) / n_edited, rel=1e-4)


def test_the_room_for_late_norms_may_fill_up(tiny_model: Any, monkeypatch: Any) -> None:
    model = tiny_model("llama")
    dose, n_edited, fired = seen(model, ["the rain"], n_new=12)
    monkeypatch.setattr(late_norms, "ROOM", 3 * 2 * 32)  # three passes of two sites
    assert seen(model, ["the rain"], n_new=12) == [pytest.approx(dose), n_edited, fired]


def test_padding_has_no_part_in_what_is_an_outlier(tiny_model: Any) -> None:
    model, site = tiny_model("llama"), Site(1, "resid_post")
    batch = model.tokenize(["sea", "sun", "rain", "the rain in the town and the sea in the sun"])
    huge = torch.where(batch.attention_mask, 0.0, 1e6)
    huge[3, 0] = 1e5  # an outlier among the tokens, and small beside the padding
    spiked = model.layout.blocks[0].register_forward_hook(
        lambda module, args, out: out + huge[..., None] * UNIT
    )
    try:
        with Plan(steer.add(site, UNIT), where=steer.all()).on(model) as trace, torch.no_grad():
            model.forward(batch)
    finally:
        spiked.remove()
    (record,) = trace.passes
    norms = record.norms[site][batch.attention_mask & (huge == 0)]
    assert float(norms.max()) < 4 * float(norms.median())
    assert trace.dose() == pytest.approx(float((1 / norms).mean()), rel=1e-4)


def test_per_edit_figures(tiny_model: Any) -> None:
    model, ids = tiny_model("llama"), torch.tensor([[5, 6, 7, 8]])
    plan = Plan(
        Edit(steer.add("resid_post.1", UNIT), where=steer.all()),
        Edit(steer.add("resid_post.1", 3 * UNIT), where=steer.positions([2])),
        Edit(steer.add("resid_post.2", UNIT), where=steer.all(), strength=0.0),
    )
    with plan.on(model) as trace:
        model.hf(ids)
    figures = trace.summary()
    assert [e["n_edited"] for e in figures["edits"]] == [4, 1, 0]
    assert figures["n_edited"] == figures["n_positions"] == 4
    (record,) = trace.passes
    site = Site(1, "resid_post")
    assert record.moved[site][0].tolist() == pytest.approx([1, 1, 4, 1], rel=1e-4)
    h = record.norms[site][0]
    assert figures["edits"][1]["dose"] == pytest.approx(float(3 / h[2]), rel=1e-4)
    assert sum(trace.fired.values()) == 5


def test_a_site_s_dose_is_asked_for_by_name(tiny_model: Any) -> None:
    model = tiny_model("llama")
    with Plan(steer.add("resid_post.1", UNIT), where=steer.all()).on(model) as trace:
        model.hf(torch.tensor([[5, 6, 7, 8]]))
    assert trace.dose("resid_post.1") == trace.dose(Site(1, "resid_post")) == trace.dose() > 0
    assert trace.dose("resid_post.2") == 0.0
    with pytest.raises(SiteError, match="is not a site"):
        trace.dose("nonsense")


def test_tracing_keeps_no_graph(tiny_model: Any) -> None:
    with Plan(steer.add("resid_post.1", UNIT), where=steer.all()).on(tiny_model("llama")) as trace:
        tiny_model("llama").hf(torch.tensor([[5, 6]]))
    (record,) = trace.passes
    tensors = [*record.norms.values(), *record.moved.values(), *(d.norm for d in record.deeds)]
    assert not any(t.requires_grad for t in tensors)


@dataclass(frozen=True, eq=False)
class OddGate:
    """Open at odd positions, and says so."""

    sites: tuple[Site, ...] = (Site(1, "resid_post"),)

    def new_state(self) -> object:
        return None

    def open(self, readings: Mapping[Site, Any], frame: Frame, state: Any) -> torch.Tensor:
        odd = frame.logical % 2 == 1
        frame.note("odd", odd)
        return odd

    def explain(self, evidence: Mapping[str, Any], row: int, index: int) -> str:
        return f"because position is {'odd' if evidence['odd'][row, index] else 'even'}"


def explained(model: Model) -> Trace:
    plan = Plan(steer.add("resid_post.1", UNIT), where=steer.all(), gate=OddGate())
    with plan.on(model) as trace:
        model.generate(["a b c", "the rain in the town"], max_new_tokens=4, eos_token_id=None)
    return trace


def test_explanations_name_token_edit_and_reason(tiny_model: Any) -> None:
    model = tiny_model("llama")
    trace = explained(model)
    ids = model.tokenize("the rain in the town").input_ids[0].tolist()
    for token in range(len(ids)):
        text = trace.explain(token, row=1)
        assert text.startswith(
            f"token {token} {model.tokenizer.decode([ids[token]])!r} of the prompt"
        )
        odd = token % 2 == 1
        assert ("add a vector of norm 1 at resid_post.1, dose" in text) == odd
        assert ("no edit acted here" in text) != odd
        assert text.endswith("odd" if odd else "even")


class SilentOddGate(OddGate):
    """Goes by what an `OddGate` worked out in the same pass, and notes nothing itself."""

    def open(self, readings: Mapping[Site, Any], frame: Frame, state: Any) -> torch.Tensor:
        return frame.logical % 2 == 1


def test_gates_that_share_an_evaluation_share_its_notes(tiny_model: Any) -> None:
    model = tiny_model("llama")
    gated = Edit(steer.add("resid_post.1", UNIT), where=steer.all(), gate=OddGate())
    with Plan(gated, steer.Stop(gate=SilentOddGate())).on(model) as trace:
        model.generate("a b c", max_new_tokens=4, eos_token_id=None)
    (event,) = trace.events
    assert event.why == "because position is odd"
    assert f"stop: stopped ({event.why})" in trace.explain()


def test_negative_tokens_count_from_the_last_one_read(tiny_model: Any) -> None:
    trace = explained(tiny_model("llama"))
    n = len(tiny_model("llama").tokenize("a b c").input_ids[0]) + 3
    assert trace.explain(-1, row=0) == trace.explain(n - 1, row=0)
    assert ", generated" in trace.explain(-1)
    with pytest.raises(PlanError, match=f"{n} tokens"):
        trace.explain(n, row=0)
    with pytest.raises(PlanError, match="rows 0-1"):
        trace.explain(-1, row=2)


def test_a_plan_that_did_nothing_says_so(tiny_model: Any) -> None:
    with Plan(steer.add("resid_post.1", UNIT), strength=0.0).on(tiny_model("llama")) as trace:
        tiny_model("llama").generate("sea", max_new_tokens=2)
    assert "nothing was recorded" in trace.explain()
    assert trace.dose() == 0.0
    assert trace.summary()["n_edited"] == 0


def test_the_trace_outlives_the_plan_and_can_be_cleared(tiny_model: Any) -> None:
    trace = explained(tiny_model("llama"))
    seen = trace.n_positions
    tiny_model("llama").generate("sea", max_new_tokens=2)
    assert trace.n_positions == seen > 0
    trace.clear()
    assert trace.n_positions == 0


@pytest.mark.parametrize("edit", [1, -1, "x", None])
def test_the_dose_of_an_edit_that_is_not_there(tiny_model: Any, edit: Any) -> None:
    model = tiny_model("llama")
    with Plan(steer.add("resid_post.1", UNIT), where=steer.all()).on(model) as trace:
        model.hf(torch.tensor([[5, 6, 7]]))
    with pytest.raises(PlanError, match="does not exist; the plan has 1, from 0"):
        inspect.unwrap(type(trace).edit_dose)(trace, edit)
