"""A latched gate is the same however the text is decoded, and shuts when its time is up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from gates import AtToken
from laws import PROMPTS, TokenLatch, direction, generate, same
from torch import Tensor

from saesteer import steer
from saesteer.errors import PlanError
from saesteer.models import Model, Site, record
from saesteer.steer import ColumnHistory, Frame, Plan


@steer.register_kind
@dataclass(frozen=True, eq=False)
class Above:
    """Open at tokens whose reading along `direction` exceeds `threshold`; remembers nothing."""

    site: Site
    direction: Tensor
    threshold: float

    @property
    def sites(self) -> tuple[Site, ...]:
        return (self.site,)

    def new_state(self) -> object:
        return None

    def open(self, readings: Mapping[Site, Tensor], frame: Frame, state: Any) -> Tensor:
        score = readings[self.site].float() @ self.direction
        frame.note("score", score)
        return score > self.threshold

    def explain(self, evidence: Mapping[str, Any], row: int, index: int) -> str:
        return f"score {float(evidence['score'][row, index]):.2f}"


def above(model: Model) -> Above:
    site, along = Site(1, "resid_post"), direction(model, 5)
    batch = model.tokenize(list(PROMPTS))
    scores = record(model, batch, [site])[site][batch.attention_mask] @ along
    return Above(site, along, float(scores.quantile(0.93)))


def plan_of(model: Model, duration: int | None) -> Plan:
    push = steer.add("resid_post.2", 12 * direction(model, 1))
    return Plan(push, where=steer.all(), gate=steer.latched(above(model), duration))


@pytest.fixture(params=("llama", "gpt2", "gemma3"))
def model(request: pytest.FixtureRequest, tiny_model: Any) -> Model:
    return tiny_model(request.param)


@pytest.mark.parametrize("duration", [None, 1, 3])
def test_it_is_open_from_each_opening_on_for_so_long(duration: int | None) -> None:
    ids = torch.tensor([[0, 0, 7, 5, 7, 6, 6, 6, 6], [7, 5, 5, 5, 5, 5, 5, 7, 5]])
    mask = torch.tensor([[0, 0] + [1] * 7, [1] * 9])
    gate = steer.latched(AtToken(7, generated=False), duration)
    state, parts, start = gate.new_state(), [], 0
    for n in (4, 1, 2, 2):
        end = start + n
        frame = Frame.of(ids[:, start:end], mask[:, :end], start=start, prompt_lengths=[2, 4])
        parts.append(gate.open({}, frame, state))
        start = end
    expected = {
        None: ["..ooooooo", "ooooooooo"],
        1: ["..o.o....", "o......o."],
        3: ["..ooooo..", "ooo....oo"],
    }[duration]
    got = ["".join("o" if o else "." for o in row) for row in torch.cat(parts, 1).tolist()]
    assert got == expected


@pytest.mark.parametrize("duration", [None, 3])
def test_however_it_is_decoded_it_is_open_at_the_same_tokens(
    model: Model, duration: int | None
) -> None:
    plan = plan_of(model, duration)
    plain = generate(model, PROMPTS)
    with plan.on(model):
        steered = generate(model, PROMPTS)
        same(steered, generate(model, PROMPTS, use_cache=False))
        same(steered, generate(model, PROMPTS, prefill_chunk_size=3))
        for row, prompt in enumerate(PROMPTS):
            alone = generate(model, [prompt])
            assert torch.equal(alone.tokens[0], steered.tokens[row])
        for prompt in ("ababababab", "x y x y x y"):
            one = generate(model, [prompt], new=14)
            same(one, generate(model, [prompt], new=14, prompt_lookup_num_tokens=4))
    assert (plain.logits - steered.logits).abs().max() > 1e-2 * plain.logits.abs().max()


@pytest.mark.parametrize("duration", [None, 2])
def test_it_follows_its_beam(tiny_model: Any, duration: int | None) -> None:
    model = tiny_model("llama")
    prompts = [chr(40 + 3 * i) * 3 + chr(110 - i) for i in range(16)]
    with plan_of(model, duration).on(model):
        cached, uncached = (
            generate(model, prompts, new=12, use_cache=c, num_beams=4).tokens for c in (True, False)
        )
    assert torch.equal(cached, uncached)


def test_a_gate_inside_that_remembers_follows_too(tiny_model: Any) -> None:
    state = steer.latched(TokenLatch(7)).new_state()
    assert isinstance(state.inner, ColumnHistory)
    frame = Frame.of(torch.tensor([[7, 5], [5, 5]]), prompt_lengths=[1, 1])
    steer.latched(TokenLatch(7)).open({}, frame, state)
    state.select_rows(torch.tensor([1, 0, 0]))
    for history in (state.inner, state.opened):
        assert history.so_far(frame)[:, 0, 0].float().argmax() == 1


def test_it_is_saved_and_checked(tiny_model: Any, tmp_path: Path) -> None:
    model = tiny_model("llama")
    plan = plan_of(model, 3)
    plan.save(tmp_path / "plan", model)
    runs = []
    for each in (plan, Plan.load(tmp_path / "plan", model)):
        with each.on(model) as trace:
            runs.append(generate(model, PROMPTS))
    same(*runs, tolerance=0)
    assert "latched: score" in trace.explain()
    with pytest.raises(PlanError, match="duration is 0"):
        steer.latched(AtToken(7, generated=False), 0)
