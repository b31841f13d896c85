"""The harness's numbers under a plan: its own where nothing is steered, ours where something is."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError, DimensionError, PlanError
from saesteer.evals import lm_eval as adapter
from saesteer.evals import lm_eval_model
from saesteer.methods import Prompting
from saesteer.models import Model
from saesteer.steer import Plan, add, where

SITE = "resid_post.1"
ASKED = [("the rain in", " the town"), ("a", " sea of sun"), ("it was said", " x"), ("the", " y")]


@pytest.fixture
def model(tiny_model: Callable[[str], Model]) -> Model:
    return tiny_model("llama")


@pytest.fixture
def plan(model: Model) -> Plan:
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    return Plan(add(SITE, vector), where=where.generated())


def tokens(model: Model, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def requests(model: Model) -> list[Any]:
    return [((a, b), tokens(model, a), tokens(model, b)) for a, b in ASKED]


@torch.no_grad()
def by_hand(model: Model, plan: Plan, context: list[int], said: list[int]) -> tuple[float, bool]:
    """One row, unpadded, token by token."""
    with plan.on(model, prompt_lengths=[len(context)]):
        logits = model.hf(input_ids=torch.tensor([context + said])).logits[0].double()
    total, greedy = 0.0, True
    for index, token in enumerate(said):
        at = logits[len(context) - 1 + index]
        total += float(at.log_softmax(-1)[token])
        greedy = greedy and int(at.argmax()) == token
    return total, greedy


def test_continuations_are_scored_as_generated_behind_their_contexts(
    model: Model, plan: Plan
) -> None:
    found = adapter.score(model, plan, requests(model), 64)
    for (total, greedy), (_, context, said) in zip(found, requests(model), strict=True):
        expected, same = by_hand(model, plan, context, said)
        assert total == pytest.approx(expected, rel=1e-4)
        assert greedy == same
    plain = adapter.score(model, plan * 0, requests(model), 64)
    assert all(abs(a[0] - b[0]) > 0.01 for a, b in zip(found, plain, strict=True))


def test_a_long_context_loses_its_front(model: Model, plan: Plan) -> None:
    context, said = tokens(model, "the rain in the town and the sea"), tokens(model, " sun x")
    kept = (context + said)[-9:]
    short = kept[: len(kept) - len(said)]
    (found,) = adapter.score(model, plan, [(None, context, said)], 8)
    assert found[0] == pytest.approx(by_hand(model, plan, short, said)[0], rel=1e-4)


def test_what_greedy_decoding_says_is_called_greedy(model: Model, plan: Plan) -> None:
    with plan.on(model):
        ((prompt, new),) = model.generate_ids("the rain", max_new_tokens=4, min_new_tokens=4)
    asked = (None, prompt.input_ids[0].tolist(), new[0].tolist())
    assert adapter.score(model, plan, [asked], 64)[0][1]
    assert not adapter.score(model, plan * 0, [asked], 64)[0][1]


def test_an_empty_request_is_refused(model: Model, plan: Plan) -> None:
    with pytest.raises(PlanError, match="without context or continuation"):
        adapter.score(model, plan, [(None, [], [3])], 64)


def test_plans_that_cannot_be_carried_are_refused_at_once(model: Model) -> None:
    letters = Contrast.from_texts(["aa"] * 5, ["zz"] * 5)
    with pytest.raises(PlanError, match="lm_eval makes its own"):
        lm_eval_model(model, Prompting("be kind").fit(model, letters))
    with pytest.raises(DimensionError, match="made for width 31"):
        lm_eval_model(model, Plan(add(SITE, torch.ones(31))))


def test_without_the_harness_the_error_says_so(
    model: Model, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.models.huggingface", None)
    adapter._steered_class.cache_clear()
    with pytest.raises(ConfigError, match="pip install lm-eval"):
        lm_eval_model(model, plan)


@pytest.fixture
def harness() -> Any:
    adapter._steered_class.cache_clear()
    pytest.importorskip("lm_eval", reason="lm_eval is not installed (optional)")
    return pytest.importorskip("lm_eval.models.huggingface")


def test_the_harness_own_numbers_come_out_where_nothing_is_steered(
    harness: Any, model: Model, plan: Plan
) -> None:
    own = harness.HFLM(
        pretrained=model.hf, tokenizer=model.tokenizer, backend="causal", device="cpu", batch_size=2
    )
    asked = [SimpleNamespace(args=pair) for pair in ASKED]
    theirs = own.loglikelihood(asked, disable_tqdm=True)
    ours = lm_eval_model(model, plan * 0, batch_size=2).loglikelihood(asked, disable_tqdm=True)
    for a, b in zip(ours, theirs, strict=True):
        assert a[0] == pytest.approx(b[0], rel=1e-4)
        assert a[1] == b[1]
    texts = [SimpleNamespace(args=(a + b,)) for a, b in ASKED]
    rolled = lm_eval_model(model, plan * 0).loglikelihood_rolling(texts, disable_tqdm=True)
    assert rolled == pytest.approx(own.loglikelihood_rolling(texts, disable_tqdm=True), rel=1e-4)


def test_the_harness_scores_and_writes_under_the_plan(
    harness: Any, model: Model, plan: Plan
) -> None:
    steered = lm_eval_model(model, plan, batch_size=3)
    asked = [SimpleNamespace(args=pair) for pair in ASKED]
    found = steered.loglikelihood(asked, disable_tqdm=True)
    for (total, _), (context, said) in zip(found, ASKED, strict=True):
        parts = steered._encode_pair(context, said)
        assert total == pytest.approx(by_hand(model, plan, *parts)[0], rel=1e-4)
    options = {"until": [], "max_gen_toks": 6, "do_sample": False}
    asked = [SimpleNamespace(args=("the rain", options)), SimpleNamespace(args=("a", options))]
    with plan.on(model):
        expected = model.generate(["the rain", "a"], max_new_tokens=6)
    assert steered.generate_until(asked, disable_tqdm=True) == expected
    assert expected != model.generate(["the rain", "a"], max_new_tokens=6)
    assert not any(module._forward_hooks for module in model.hf.modules())
