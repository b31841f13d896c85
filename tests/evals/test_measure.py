"""Damage is measured where and how the definition says: against a hand-made teacher-forced pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from gates import AtToken

from saesteer.data.contrast import Contrast
from saesteer.evals import measure as measuring
from saesteer.evals.measure import Bench, damage, dose_of, make_bench, measure, write
from saesteer.evals.scorers import LexiconRate
from saesteer.evals.tasks import Task
from saesteer.methods import Prompting
from saesteer.models import Model
from saesteer.steer import Edit, Plan, Stop, add, add_scaled, spans

N_TOKENS = 5
PROMPTS = ("the rain", "so it was said", "x")
SITE = "resid_post.1"


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Model]) -> Model:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def bench(model: Model) -> Bench:
    """Three prompts of different lengths, so that rows are padded."""
    contrast = Contrast.from_texts(["aa"] * 5, ["zz"] * 5)
    prompts = {"validation": PROMPTS, "test": ("y",)}
    task = Task("toy", contrast, prompts, LexiconRate(tuple("abcdefghijklm")))
    return make_bench(model, task, "validation", N_TOKENS)


@pytest.fixture(scope="module")
def plan(model: Model) -> Plan:
    """A vector that moves a tiny model a good deal."""
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    return Plan(add_scaled(SITE, vector / vector.norm()))


def by_hand(model: Model, plan: Plan, prompt: str, plain: str) -> tuple[float, float]:
    """KL in nats per token and cross entropy of one unpadded text, the long way."""
    seen = model.tokenize(prompt).input_ids[0].tolist()
    with plan.on(model):
        ((_, new),) = model.generate_ids(
            plain, max_new_tokens=N_TOKENS, min_new_tokens=N_TOKENS, batch_size=1
        )
    with torch.no_grad():
        with plan.on(model, prompt_lengths=[len(seen)]):
            ids = torch.tensor([seen + new[0].tolist()])
            steered = model.hf(input_ids=ids).logits[0, len(seen) - 1 : -1].double().log_softmax(-1)
        clean_ids = model.tokenize(plain).input_ids[0].tolist()
        ids = torch.tensor([clean_ids + new[0].tolist()])
        clean = model.hf(input_ids=ids).logits[0, len(clean_ids) - 1 : -1].double().log_softmax(-1)
    kl = (steered.exp() * (steered - clean)).sum(-1).mean()
    return float(kl), float(-clean.gather(-1, new[0][:, None]).mean())


def test_no_plan_moves_nothing(bench: Bench) -> None:
    point = measure(bench, None)
    assert point.kls == (0.0,) * 3
    assert point.effects == (0.0,) * 3
    assert point.texts == bench.unsteered.texts


def test_no_strength_moves_nothing(bench: Bench, plan: Plan) -> None:
    point = measure(bench, plan.with_strength(0.0))
    assert point.texts == bench.unsteered.texts
    assert max(point.kls) < 1e-6
    assert point.relative_dose == 0


def test_kl_and_perplexity_are_those_of_a_hand_made_pass(
    model: Model, bench: Bench, plan: Plan
) -> None:
    """Alone and unpadded, row by row, in double precision."""
    point = measure(bench, plan * 0.3)
    expected = [by_hand(model, plan * 0.3, prompt, prompt) for prompt in PROMPTS]
    assert point.kls == pytest.approx([kl for kl, _ in expected], rel=1e-3)
    assert min(point.kls) > 0.01
    mean = sum(ce for _, ce in expected) / len(expected)
    assert point.perplexity == pytest.approx(float(torch.tensor(mean).exp()), rel=1e-3)


def test_a_prompt_edit_is_compared_with_the_model_that_never_saw_it(
    model: Model, bench: Bench
) -> None:
    contrast = Contrast.from_texts(["aa"] * 5, ["zz"] * 5)
    edit = Prompting("be kind").fit(model, contrast)
    point = measure(bench, edit)
    expected = [by_hand(model, edit, f"be kind\n\n{prompt}", prompt)[0] for prompt in PROMPTS]
    assert point.kls == pytest.approx(expected, rel=1e-3)
    assert min(point.kls) > 0.01


def test_every_text_has_the_same_number_of_tokens(bench: Bench, plan: Plan) -> None:
    point = measure(bench, plan * 0.3)
    assert len(point.texts) == len(PROMPTS)
    assert all(new.shape[1] == N_TOKENS for _, new in bench.unsteered.batches)


def test_effects_are_paired_by_prompt(bench: Bench, plan: Plan) -> None:
    point = measure(bench, plan * 0.3)
    scores = [bench.scorer(text) for text in point.texts]
    assert point.effects == tuple(s - b for s, b in zip(scores, bench.scores, strict=True))


def test_the_dose_is_linear_in_strength(bench: Bench, plan: Plan) -> None:
    unit = dose_of(bench, plan, 3)
    assert unit == pytest.approx(1.0, rel=0.05)
    assert dose_of(bench, plan * 0.25, 3) == pytest.approx(0.25 * unit, rel=1e-4)
    assert measure(bench, plan * 0.25).relative_dose == pytest.approx(0.25 * unit, rel=0.05)


def test_a_vector_that_does_nothing_has_no_dose(model: Model, bench: Bench) -> None:
    assert dose_of(bench, Plan(add(SITE, torch.zeros(model.d_model))), 3) == 0


def test_the_dose_is_found_in_whichever_batch_a_plan_acts(
    model: Model, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = Edit(add(SITE, torch.ones(model.d_model)), where=spans("it was"))
    whole = dose_of(bench, Plan(edit), 3)
    monkeypatch.setattr(measuring, "BATCH_SIZE", 1)
    written = write(model, PROMPTS, None, N_TOKENS)
    assert len(written.batches) == 3
    parted = replace(bench, unsteered=written)
    assert whole > 0
    assert dose_of(parted, Plan(edit), 3) == pytest.approx(whole, rel=1e-3)
    assert dose_of(parted, Plan(edit), 1) == 0


def test_a_text_that_a_plan_ends_counts_as_far_as_it_goes(
    model: Model, bench: Bench, plan: Plan
) -> None:
    """Beside texts that go on it costs what it costs alone: padding behind its end is no text."""
    ((_, new),) = write(model, PROMPTS[:1], plan, N_TOKENS).batches
    stopping = plan + Plan(Stop(gate=AtToken(int(new[0, 1]))))
    together = measure(bench, stopping)
    written = write(model, PROMPTS, stopping, N_TOKENS)
    kls, losses = damage(bench, stopping, written)
    assert len(losses) < 3 * N_TOKENS
    for row, prompt in enumerate(PROMPTS):
        alone = replace(bench, prompts=(prompt,), scores=bench.scores[row : row + 1])
        text = write(model, (prompt,), stopping, N_TOKENS)
        assert damage(alone, stopping, text)[0] == pytest.approx(kls[row : row + 1], rel=1e-3)
    assert together.perplexity == pytest.approx(float(losses.mean().exp()), rel=1e-5)


def test_a_text_that_never_began_cost_nothing(model: Model, bench: Bench) -> None:
    point = measure(bench, Plan(Stop()))
    assert point.texts == ("",) * 3
    assert point.kls == (0.0,) * 3
    assert math.isnan(point.perplexity)
