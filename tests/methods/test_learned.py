"""The seam of learned methods: seeded steps, a model left alone, and a run that can be taken up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError, DataError
from saesteer.methods import Controller, LearnedMethod, LinEAS, LoReFT, ReFTr1, RePS
from saesteer.methods.learned import MethodLearner, frozen
from saesteer.methods.scoring import log_likelihood, n_asked, teacher_forced
from saesteer.models import Model
from saesteer.steer import Plan

METHODS: dict[str, Callable[..., LearnedMethod]] = {
    "controller": Controller,
    "lineas": LinEAS,
    "loreft": LoReFT,
    "reft-r1": ReFTr1,
    "reps": RePS,
}


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> LearnedMethod:
    return METHODS[request.param](n_steps=6, batch_size=3)


def run(learner: MethodLearner, n_steps: int) -> list[float]:
    return [float(learner.step(learner.turn()).loss.detach()) for _ in range(n_steps)]


def test_a_run_that_is_taken_up_ends_in_the_same_bits(
    method: LearnedMethod, model: Model, letters: Contrast
) -> None:
    whole = method.learner(model, letters)
    losses = run(whole, 6)
    begun = method.learner(model, letters)
    first = run(begun, 4)
    kept = {name: value.clone() for name, value in begun.state().items()}
    again = method.learner(model, letters)
    again.restore(kept, 4)
    assert first + run(again, 2) == losses
    state = again.state()
    assert all(torch.equal(value, state[name]) for name, value in whole.state().items())


def test_the_seed_decides_what_is_learned(
    method: LearnedMethod, model: Model, letters: Contrast
) -> None:
    from dataclasses import replace

    one, other = (run(replace(method, seed=seed).learner(model, letters), 2) for seed in (0, 1))
    assert one != other


def test_fitting_leaves_the_model_and_the_worlds_randomness_alone(
    method: LearnedMethod, model: Model, letters: Contrast
) -> None:
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    randomness = torch.get_rng_state()
    model.hf.train()
    try:
        with torch.no_grad():
            plan = method.fit(model, letters)
        assert all(module.training for module in model.hf.modules())
    finally:
        model.hf.eval()
    assert isinstance(plan, Plan)
    assert torch.equal(torch.get_rng_state(), randomness)
    assert all(p.requires_grad and p.grad is None for p in model.hf.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf.modules())


def test_what_the_plan_holds_is_detached_and_stays(
    method: LearnedMethod, model: Model, letters: Contrast
) -> None:
    learner = method.learner(model, letters)
    run(learner, 3)
    plan = learner.plan()
    assert all(not t.requires_grad for edit in plan.edits for t in vars(edit.intervention).values()
               if isinstance(t, torch.Tensor))  # fmt: skip
    prompt = model.tokenize("some words")
    with plan.on(model, prompt_lengths=[1]):
        said = model.forward(prompt).detach()
    run(learner, 3)
    with plan.on(model, prompt_lengths=[1]):
        assert torch.equal(model.forward(prompt), said)


def test_every_epoch_reads_every_row_once(model: Model, letters: Contrast) -> None:
    learner = LoReFT(n_steps=40, batch_size=4).learner(model, letters)
    n_rows = learner.fitting.n_rows
    seen: list[int] = []
    for step in range(3 * n_rows):
        learner.step_count = step
        seen += learner.turn().rows
    epochs = [seen[i : i + n_rows] for i in range(0, len(seen), n_rows)]
    assert all(sorted(epoch) == list(range(n_rows)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_the_model_is_frozen_only_within(model: Model) -> None:
    weight = model.layout.blocks[0].mlp.down_proj.weight
    weight.requires_grad_(False)
    try:
        with frozen(model):
            assert not any(p.requires_grad for p in model.hf.parameters())
        assert not weight.requires_grad
    finally:
        weight.requires_grad_(True)
    assert all(p.requires_grad for p in model.hf.parameters())


def test_likelihoods_are_those_of_the_texts_own_tokens(model: Model) -> None:
    contrast = Contrast.from_texts(["aa bb cc", "dd"], ["zz", "yy xx"], prompt="some words")
    examples = contrast.examples
    texts = teacher_forced(model, examples)
    found = log_likelihood(model, texts) * n_asked(texts)
    for row, example in enumerate(examples):
        ids = texts.tokens.input_ids[row][texts.tokens.attention_mask[row]]
        length = texts.prompt_lengths[row]
        logits = model.hf(input_ids=ids[None]).logits[0].log_softmax(-1)
        expected = sum(float(logits[t - 1, ids[t]].detach()) for t in range(length, len(ids)))
        assert float(found[row].detach()) == pytest.approx(expected, rel=1e-4), example
        assert int(n_asked(texts)[row]) == len(ids) - length


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "LoReFT: lr is 0.0, expected a number above 0"),
        ({"batch_size": 0}, "LoReFT: batch_size is 0, expected 1 or more"),
        ({"n_steps": 0}, "LoReFT: n_steps is 0, expected 1 or more"),
        ({"n_ranks": 0}, "LoReFT: n_ranks is 0, expected 1 or more"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoReFT(**settings)


def test_a_loss_that_is_no_number_stops_the_run(
    tiny_model: Callable[[str], Model], letters: Contrast
) -> None:
    model = tiny_model("llama")
    learner = LoReFT(n_steps=5).learner(model, letters)
    with torch.no_grad():
        next(learner.fitting.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match=r"LoReFT: the loss is nan at step 0; check the model"):
        learner.step(learner.turn())
    assert all(p.requires_grad for p in model.hf.parameters())
    assert not any(m._forward_hooks for m in model.hf.modules())


def test_a_single_token_without_a_prompt_is_refused(model: Model) -> None:
    ids = model.tokenizer
    word = next(w for w in ("the", "in", "rain", "sea") if len(ids(w)["input_ids"]) == 1)
    lone = Contrast.from_texts([word] * 3, ["zz yy"] * 3)
    with pytest.raises(DataError, match=rf"text \d \('{word}'\) is a single token without a pro"):
        LoReFT(n_steps=1).fit(model, lone)
