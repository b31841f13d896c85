"""What heads do beyond edits: refuse, stop, take back, report, saved plans; latch, priority."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from saesteer.errors import ConfigError, PlanError
from saesteer.models import Model, record
from saesteer.rules import RuleBook
from saesteer.saes import SAE
from saesteer.steer import Plan, Stop, add, clamp

PROMPTS = ["the rain in the town", "the sea", "and the sun in the sea and the rain"]
SITE = "resid_post.1"


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Model]) -> Model:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def sae(model: Model, tiny_sae: Callable[..., SAE]) -> SAE:
    return tiny_sae(model, SITE)


@pytest.fixture(scope="module")
def feature(model: Model, sae: SAE) -> int:
    """One that fires on some of the prompts' last tokens and not on all."""
    batch = model.tokenize(PROMPTS)
    last = sae.encode(record(model, batch, [sae.site])[sae.site])[:, -1]
    return int(((last > 0).sum(0) == 1).nonzero()[0])


def _book(acts: Any, feature: int, rules: str = "unsafe :- a.", **concept: Any) -> RuleBook:
    concepts = {"a": {"feature": feature, "threshold": 0, **concept}}
    return RuleBook.from_dict({"concepts": concepts, "rules": rules, "acts": acts})


def _say(model: Model, plan: Plan, **options: Any) -> list[str]:
    with plan.on(model):
        return model.generate(PROMPTS, max_new_tokens=6, **options)


def test_a_refusal_comes_where_the_head_holds_and_nowhere_else(
    model: Model, sae: SAE, feature: int
) -> None:
    plain = model.generate(PROMPTS, max_new_tokens=6)
    book = _book({"unsafe": {"refuse": "no"}}, feature, aggregate="prompt", over="last")
    said = _say(model, book.plan(sae))
    holds = [bool(book.evaluate(model, sae, p).holds["unsafe"]) for p in PROMPTS]
    assert sum(holds) == 1
    for text, before, up in zip(said, plain, holds, strict=True):
        assert (text == "no") if up else (text == before)
    assert _say(model, book.plan(sae), use_cache=True) == said


def test_stop_backtrack_and_report(model: Model, sae: SAE, feature: int) -> None:
    plain = model.generate(PROMPTS, max_new_tokens=6)
    always = "unsafe :- not b. b :- a, not a."
    stopped = _say(model, _book({"unsafe": {"stop": True}}, feature, always).plan(sae))
    assert stopped == ["", "", ""]
    back = _book({"unsafe": {"backtrack": 2, "limit": 1}}, feature, always).plan(sae)
    assert _say(model, back) != plain
    report = _book({"unsafe": {"report": "came up"}}, feature, always).plan(sae)
    with report.on(model) as trace:
        assert model.generate(PROMPTS, max_new_tokens=6) == plain
    assert "came up" in str(trace.events)


def test_a_saved_plan_is_opened_by_a_head(
    model: Model, sae: SAE, feature: int, tmp_path: Path
) -> None:
    vector = torch.randn(model.layout.width(sae.site), generator=torch.Generator().manual_seed(0))
    inner = Plan(add(sae.site, vector * 3), clamp(sae, 5, 9.0))
    inner.save(tmp_path / "calm")
    raw = {
        "concepts": {"a": {"feature": feature, "threshold": 1e9}},
        "rules": "on :- not a.",
        "acts": {"on": {"plan": "calm", "strength": 2}},
    }
    book = RuleBook.from_dict(raw, folder=tmp_path)
    assert _say(model, book.plan(sae)) == _say(model, inner * 2)
    Plan(add(sae.site, vector), gate=book.plan(sae).edits[0].gate).save(tmp_path / "calm")
    with pytest.raises(PlanError, match="without gates"):
        RuleBook.from_dict(raw, folder=tmp_path).plan(sae)


def _opened(model: Model, plan: Plan) -> dict[str, int]:
    batch = model.tokenize(PROMPTS)
    with plan.on(model, prompt_lengths=batch.attention_mask.sum(-1)) as trace:
        model.hf(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    return trace.fired


def _fired(model: Model, sae: SAE, feature: int, **timing: Any) -> int:
    acts = {"unsafe": {"add": 7, "amount": 0.0, "where": "all", **timing}}
    return sum(_opened(model, _book(acts, feature).plan(sae)).values())


def test_latch_holds_on_and_duration_counts_tokens(model: Model, sae: SAE, feature: int) -> None:
    batch = model.tokenize(PROMPTS)
    latents = sae.encode(record(model, batch, [sae.site])[sae.site])[..., feature]
    open_ = (latents > 0) & batch.attention_mask
    latched = two = 0
    special = torch.isin(batch.input_ids, model.special_ids)
    for row in range(3):
        columns = [t for t in range(open_.shape[1]) if batch.attention_mask[row, t]]
        for t in columns:
            if special[row, t]:
                continue
            seen = [s for s in columns if s <= t and open_[row, s]]
            latched += bool(seen)
            two += bool(seen) and t - seen[-1] < 2
    once = int((open_ & ~special).sum())
    assert _fired(model, sae, feature) == once
    assert _fired(model, sae, feature, latch=True) == latched > once
    assert _fired(model, sae, feature, duration=2) == two > once


@pytest.mark.parametrize("timing", [{"latch": True}, {"duration": 30}], ids=str)
@pytest.mark.parametrize("cached", [True, False])
def test_a_trace_names_the_token_and_the_proof_that_opened_a_held_gate(
    model: Model, sae: SAE, feature: int, timing: dict[str, Any], cached: bool
) -> None:
    acts = {"unsafe": {"add": 7, "amount": 0.0, **timing}}
    book = _book(acts, feature)
    prompt = next(p for p in PROMPTS if book.evaluate(model, sae, p).holds["unsafe"])
    with book.plan(sae).on(model) as trace:
        model.generate(prompt, max_new_tokens=8, use_cache=cached)
    held = 0
    for token in range(-7, 0):
        (proof,) = trace.proofs(token)
        assert proof.holds
        told = trace.explain(token).split("\n")
        assert str(proof).split("\n")[0] in told[2]
        (leaf,) = proof.leaves()
        if trace.why_not("unsafe", token) is not None:
            assert told[2].startswith(f"latched since token {leaf.position} {leaf.token!r}")
            held += 1
        else:
            assert told[2].startswith("latched: unsafe holds")
    assert held


def test_a_gate_that_is_shut_again_or_outranked_says_so(
    model: Model, sae: SAE, feature: int
) -> None:
    acts = {
        "unsafe": {"add": 7, "amount": 0.0, "where": "all", "latch": True},
        "grave": {"add": 6, "amount": 0.0, "where": "all", "priority": 2, "duration": 1},
    }
    book = _book(acts, feature, "unsafe :- a. grave :- a.")
    prompt = next(p for p in PROMPTS if book.evaluate(model, sae, p).holds["a"])
    with book.plan(sae).on(model) as trace:
        model.generate(prompt, max_new_tokens=8)
    told = [trace.explain(token) for token in range(-7, 0)]
    shut = [text for text in told if "no edit acted" not in text and "outranked" not in text]
    assert any("latched since token" in text and "unsafe holds" in text for text in shut)
    assert any("latched: grave does not hold" in text for text in shut)


def test_a_control_that_is_held_open_says_which_token_opened_it(
    model: Model, sae: SAE, feature: int
) -> None:
    acts = {"unsafe": {"stop": True, "latch": True}}
    reading = _book(acts, feature, "unsafe :- a.")
    prompt = next(
        p
        for p in PROMPTS
        if (at := reading.evaluate(model, sae, p).holds["a"])
        and at[-1] < len(reading.evaluate(model, sae, p).tokens) - 1
    )
    with reading.plan(sae).on(model) as trace:
        model.generate(prompt, max_new_tokens=4)
    (event,) = trace.events
    assert "latched since token" in event.why
    assert "unsafe holds" in event.why


def test_the_rule_of_higher_priority_shuts_the_others(model: Model, sae: SAE, feature: int) -> None:
    rules = "low :- a. low :- not a. high :- a. free :- a."
    shared = {"amount": 0.0, "where": "all"}
    acts = {
        "low": {"add": 1, **shared},
        "high": {"add": 2, "priority": 2, **shared},
        "free": {"add": 3, "priority": 2, **shared},
    }
    low, high, free = _opened(model, _book(acts, feature, rules).plan(sae)).values()
    everywhere = _opened(model, _book({"low": acts["low"]}, feature, rules).plan(sae))
    assert high == free > 0
    assert low == sum(everywhere.values()) - high


def test_a_control_plan_is_saved_with_its_gates(
    model: Model, sae: SAE, feature: int, tmp_path: Path
) -> None:
    book = _book({"unsafe": [{"stop": True, "latch": True}, {"report": "x"}]}, feature)
    plan = book.plan(sae)
    plan.save(tmp_path / "plan", model)
    again = Plan.load(tmp_path / "plan", model)
    assert isinstance(again.controls[0], Stop)
    assert _say(model, again) == _say(model, plan)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        ({"stop": False}, "acts.unsafe.stop is False, expected true"),
        ({"backtrack": 0}, "acts.unsafe.backtrack is 0, expected a whole number, 1 or more"),
        ({"backtrack": 2, "limit": "x"}, "acts.unsafe.limit is 'x'"),
        ({"refuse": ""}, "acts.unsafe.refuse is '', expected a text"),
        (
            {"refuse": "no", "then": "go"},
            "acts.unsafe.then is 'go', expected one of stop",
        ),
        ({"stop": True, "where": "all"}, "acts.unsafe.where is no known key"),
        ({"plan": "nowhere"}, "acts.unsafe.plan is 'nowhere', expected the folder of a saved"),
        ({"stop": True, "latch": True, "duration": 3}, "has latch and duration"),
        ({"stop": True, "duration": 0}, "acts.unsafe.duration is 0"),
        ({"stop": True, "priority": 1.5}, "acts.unsafe.priority is 1.5, expected a whole number"),
    ],
)
def test_acts_that_say_the_wrong_thing(act: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _book({"unsafe": act}, 1)
    assert message in str(caught.value)
