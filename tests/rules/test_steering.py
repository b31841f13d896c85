"""Rules that steer a tiny model: the laws of plans hold through rule gates, and the trace tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from saesteer.errors import RuleError
from saesteer.models import Model, logits, record
from saesteer.rules import RuleBook
from saesteer.saes import SAE
from saesteer.steer import Plan

PROMPTS = ["the rain in the town", "the sea", "and the sun in the sea and the rain"]
SITE = "resid_post.1"


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, tiny_model: Callable[..., Model]) -> Model:
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def sae(model: Model, tiny_sae: Callable[..., SAE]) -> SAE:
    return tiny_sae(model, SITE)


@pytest.fixture(scope="module")
def book(model: Model, sae: SAE) -> RuleBook:
    """Token-level, negated and prompt-level concepts, each true of some tokens only."""
    batch = model.tokenize(PROMPTS)
    kept = sae.encode(record(model, batch, [sae.site])[sae.site])[batch.attention_mask]
    often = (kept > 0).float().mean(0)
    a, b, c = ((often - 0.4).abs()).argsort()[:3].tolist()
    raw: dict[str, Any] = {
        "concepts": {
            "a": {"feature": a, "threshold": 0},
            "b": {"feature": b, "threshold": 0},
            "c": {
                "feature": c,
                "threshold": float(kept[:, c].max()) * 0.7,
                "aggregate": "prompt",
            },
        },
        "rules": "act :- a, not b.\nact :- c.\nhush :- b, not act.\n:- act.",
        "acts": {
            "act": [{"add": 7, "amount": 40.0}, {"scale": a, "factor": 3.0, "where": "all"}],
            "hush": {"clamp": 9, "value": 30.0},
        },
    }
    return RuleBook.from_dict(raw)


def _generate(model: Model, prompts: list[str], plan: Plan | None, **options: Any) -> list[str]:
    if plan is None:
        return model.generate(prompts, max_new_tokens=8, **options)  # pyright: ignore
    with plan.on(model):
        return model.generate(prompts, max_new_tokens=8, **options)  # pyright: ignore


def test_rules_change_what_is_generated(model: Model, sae: SAE, book: RuleBook) -> None:
    assert _generate(model, PROMPTS, book.plan(sae)) != _generate(model, PROMPTS, None)


def test_cached_equals_uncached_and_batched_equals_alone(
    model: Model, sae: SAE, book: RuleBook
) -> None:
    plan = book.plan(sae)
    together = _generate(model, PROMPTS, plan)
    assert _generate(model, PROMPTS, plan, use_cache=False) == together
    assert [_generate(model, [prompt], plan)[0] for prompt in PROMPTS] == together
    assert _generate(model, PROMPTS, plan, prefill_chunk_size=2) == together


def test_beams_with_and_without_a_cache_agree(model: Model, sae: SAE, book: RuleBook) -> None:
    plan = book.plan(sae)
    cached = _generate(model, PROMPTS, plan, num_beams=3)
    assert _generate(model, PROMPTS, plan, num_beams=3, use_cache=False) == cached


def test_heads_that_never_hold_leave_the_model_bit_for_bit(
    model: Model, sae: SAE, book: RuleBook
) -> None:
    raw = {
        "concepts": {"never": {"feature": 0, "threshold": 1e9}},
        "rules": "act :- never.",
        "acts": {"act": {"add": 1, "amount": 50.0, "where": "all"}},
    }
    batch = model.tokenize(PROMPTS)
    plain = logits(model, batch)
    with RuleBook.from_dict(raw).plan(sae).on(model) as trace:
        steered = logits(model, batch)
    assert torch.equal(steered, plain)
    assert trace.n_edited == 0


def test_edits_act_exactly_where_a_reading_says_the_head_holds(
    model: Model, sae: SAE, book: RuleBook
) -> None:
    for prompt in PROMPTS:
        batch = model.tokenize(prompt)
        with book.plan(sae).on(model, prompt_lengths=batch.input_ids.shape[1]) as trace:
            logits(model, batch)
        holds = book.evaluate(model, sae, prompt).holds["act"]
        scale = next(count for label, count in trace.fired.items() if label.startswith("scale"))
        assert scale == len(holds)


def test_the_trace_names_act_rule_concept_score_and_token(
    model: Model, sae: SAE, book: RuleBook
) -> None:
    prompt = next(p for p in PROMPTS if book.evaluate(model, sae, p).holds["act"])
    reading = book.evaluate(model, sae, prompt)
    at = reading.holds["act"][0]
    lengths = len(reading.tokens)
    with book.plan(sae).on(model, prompt_lengths=lengths) as trace:
        logits(model, model.tokenize(prompt))
    told = trace.explain(token=at).split("\n")
    assert "".join(line for line in told if line.startswith("act holds: act :- "))
    proof = str(reading.proof("act", at)).split("\n")
    assert proof == [line for line in told if line in proof]
    assert any(line.startswith("scale feature") for line in told)
    assert any(line.startswith("hush ") for line in told)


def test_alarms_are_told_once(model: Model, sae: SAE, book: RuleBook) -> None:
    prompt, at = next(
        (p, reading.alarms[":- act."][-1])
        for p in PROMPTS
        for reading in [book.evaluate(model, sae, p)]
        if reading.alarms
    )
    with book.plan(sae).on(model, prompt_lengths=1) as trace:
        logits(model, model.tokenize(prompt))
    assert trace.explain(token=at).count("alarm: :- act.") == 1


def test_a_saved_plan_steers_alike_and_shares_one_evaluation(
    model: Model, sae: SAE, book: RuleBook, tmp_path: Path
) -> None:
    plan = book.plan(sae)
    plan.save(tmp_path / "plan", model)
    again = Plan.load(tmp_path / "plan", model)
    assert _generate(model, PROMPTS, again) == _generate(model, PROMPTS, plan)
    first, _, last = (edit.gate for edit in again.edits)
    assert first.rules.key == last.rules.key  # pyright: ignore[reportAttributeAccessIssue]
    with again.on(model, prompt_lengths=1) as trace:
        logits(model, model.tokenize("the sea"))
    assert "hush" in trace.explain()


def test_a_rule_plan_composes_and_scales_like_any_other(
    model: Model, sae: SAE, book: RuleBook
) -> None:
    plan = book.plan(sae)
    batch = model.tokenize(PROMPTS)
    lengths = batch.attention_mask.sum(-1)
    with (plan * 0.5 + plan * 0.5).on(model, lengths):
        halves = logits(model, batch)
    with plan.on(model, lengths):
        whole = logits(model, batch)
    with (0.0 * plan).on(model, lengths):
        nothing = logits(model, batch)
    valid = batch.attention_mask
    torch.testing.assert_close(halves[valid], whole[valid], rtol=1e-4, atol=1e-3)
    assert torch.equal(nothing, logits(model, batch))


def test_a_trace_gives_proofs_as_values_and_near_misses(
    model: Model, sae: SAE, book: RuleBook
) -> None:
    with book.plan(sae).on(model) as trace:
        model.generate(PROMPTS[0], max_new_tokens=6)
    for token in range(5):
        told = {proof.literal: proof for proof in trace.proofs(token)}
        assert set(told) == {"act", "hush"}
        assert all(str(proof) in trace.explain(token) for proof in told.values())
        for head, proof in told.items():
            miss = trace.why_not(head, token)
            if proof.note.startswith("not decided"):
                continue
            assert (miss is None) == proof.holds
            if miss is not None:
                for change in miss.changes:
                    assert change.by == abs(change.leaf.score - change.leaf.threshold)
    with pytest.raises(RuleError, match="'atc' is no atom"):
        trace.why_not("atc")


@pytest.mark.parametrize(
    "rules",
    [
        "act :- strength(a, S), S > 100, not b.",
        "kind(a,x). kind(b,y). on(X) :- kind(X,_), strength(X,S), S > 100. act :- on(a), not b.",
    ],
)
def test_variables_and_strengths_gate_as_the_scores_say(
    model: Model, sae: SAE, book: RuleBook, rules: str
) -> None:
    a, b = book.concepts[:2]
    concepts = {
        c.name: {"feature": c.readout.features[0], "threshold": 0}  # pyright: ignore
        for c in (a, b)
    }
    acts = {"act": {"add": 7, "amount": 40.0}}
    grounded = RuleBook.from_dict({"concepts": concepts, "rules": rules, "acts": acts})
    plain = model.generate(PROMPTS, max_new_tokens=8)
    with grounded.plan(sae).on(model) as trace:
        cached = model.generate(PROMPTS, max_new_tokens=8)
        uncached = model.generate(PROMPTS, max_new_tokens=8, use_cache=False)
        assert cached == uncached
        alone = [model.generate(prompt, max_new_tokens=8) for prompt in PROMPTS]
    assert cached == alone
    assert cached != plain
    assert 0 < trace.n_edited < trace.n_positions
    reading = grounded.evaluate(model, sae, PROMPTS[2])
    scores = reading.evidence.scores[0]
    want = (scores[:, 0] > 0.1005) & ~(scores[:, 1] > 0)
    assert reading.holds["act"] == tuple(want.nonzero().flatten().tolist())
