"""Answering from a cache is what generating says, and leaves the model as it was."""

from __future__ import annotations

import pytest
import torch

from saesteer.evals.answer_plans import DOSES, learn_answers, learn_direction, word_id
from saesteer.evals.prefill import prefill, token_positions
from saesteer.models import Site, record
from saesteer.steer import Plan, add_scaled, last

SITE = Site.parse("resid_post.1")
PROMPTS = ["the rain in the town and", "the sea", "in the sun and the rain"]


def push(model) -> Plan:
    vector = torch.arange(model.d_model).sin()
    return Plan(add_scaled(SITE, vector / vector.norm()), where=last())


def generated(model, plan: Plan | None) -> torch.Tensor:
    logits: list[torch.Tensor] = []
    if plan is None:
        list(model.generate_ids(PROMPTS, max_new_tokens=1, logits=logits))
    else:
        with plan.on(model):
            list(model.generate_ids(PROMPTS, max_new_tokens=1, logits=logits))
    return logits[0][:, 0]


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_cached_answers_equal_generated_ones(tiny_model, arch):
    model = tiny_model(arch)
    read = prefill(model, PROMPTS, SITE)
    for plan in (None, push(model), None):
        expected = generated(model, plan)
        found = read.answer(plan)
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert (read.answer(push(model)) - read.answer()).abs().max() > 1e-2


def test_rows_are_the_prompts_activations_without_padding_and_last_token(tiny_model):
    model = tiny_model("llama")
    sites = [SITE, Site.parse("resid_post.0")]
    rows = prefill(model, PROMPTS, *sites).rows()
    for prompt, row in zip(PROMPTS, rows, strict=True):
        alone = record(model, model.tokenize(prompt), sites)
        for site, found in zip(sites, row, strict=True):
            expected = alone[site][0, :-1]
            assert found.shape == expected.shape
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_token_positions_overlap_their_spans(tiny_model):
    model = tiny_model("llama")
    text = "the rain in the town"
    ids = model.tokenizer(text)["input_ids"]
    (found,) = token_positions(model, text, [(text.index("in the"), len(text))])
    assert model.tokenizer.decode([ids[t] for t in found]).strip() == "in the town"


def test_a_learned_direction_makes_its_word_likelier_and_leaves_no_hook(tiny_model):
    model = tiny_model("llama")
    read = prefill(model, PROMPTS, SITE)
    n_hooks = len(model.layout.point(SITE).module._forward_hooks)
    target = int(read.answer().argmin(-1)[0])
    vector = learn_direction(read, target, SITE, 0.75, steps=15)
    assert vector.norm() == pytest.approx(1, abs=1e-5)
    plan = Plan(add_scaled(SITE, 0.75 * vector), where=last())
    before = read.answer().log_softmax(-1)[:, target].mean()
    assert read.answer(plan).log_softmax(-1)[:, target].mean() > before + 1
    assert len(model.layout.point(SITE).module._forward_hooks) == n_hooks
    assert all(parameter.grad is None for parameter in model.hf.parameters())


def test_a_direction_is_learned_at_the_dose_it_is_for(tiny_model):
    """Each is better at its own dose than the one learned at the other."""
    model = tiny_model("llama")
    read = prefill(model, PROMPTS, SITE)
    target = int(read.answer().argmin(-1)[0])
    doses = (0.3, 3.0)
    learned = [learn_direction(read, target, SITE, dose) for dose in doses]

    def reached(vector: torch.Tensor, dose: float) -> float:
        plan = Plan(add_scaled(SITE, dose * vector), where=last())
        return float(read.answer(plan).log_softmax(-1)[:, target].mean())

    for own, dose in enumerate(doses):
        assert reached(learned[own], dose) > reached(learned[1 - own], dose)


def test_an_answer_tells_how_well_it_is_obeyed(tiny_model):
    model = tiny_model("llama")
    read = prefill(model, PROMPTS, SITE)
    word = model.tokenizer.decode([int(read.answer()[0].argmax())]).strip() or "the"
    found = learn_answers(read, read, [word], SITE)[word]
    logits = read.answer(found.plan)
    target = word_id(model, word)
    assert found.obeyed == float((logits.argmax(-1) == target).float().mean())
    assert found.least == pytest.approx(float(logits.softmax(-1)[:, target].min()), rel=1e-4)
    assert found.dose in DOSES
