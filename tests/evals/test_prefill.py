"""Answering from a cache is what generating says, and leaves the model as it was."""

from __future__ import annotations

import pytest
import torch

from saesteer.evals.answer_plans import learn_answers, learn_vector
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
    rows = prefill(model, PROMPTS, SITE).rows()
    for prompt, row in zip(PROMPTS, rows, strict=True):
        alone = record(model, model.tokenize(prompt), [SITE])[SITE][0, :-1]
        assert row.shape == alone.shape
        torch.testing.assert_close(row, alone, rtol=1e-3, atol=1e-3)


def test_token_positions_overlap_their_spans(tiny_model):
    model = tiny_model("llama")
    text = "the rain in the town"
    ids = model.tokenizer(text)["input_ids"]
    (found,) = token_positions(model, text, [(text.index("in the"), len(text))])
    assert model.tokenizer.decode([ids[t] for t in found]).strip() == "in the town"


def test_a_learned_vector_makes_its_word_likelier_and_leaves_no_hook(tiny_model):
    model = tiny_model("llama")
    read = prefill(model, PROMPTS, SITE)
    n_hooks = len(model.layout.point(SITE).module._forward_hooks)
    target = int(read.answer().argmin(-1)[0])
    vector = learn_vector(read, target, SITE, steps=15)
    assert vector.norm() == pytest.approx(1, abs=1e-5)
    before = read.answer().log_softmax(-1)[:, target].mean()
    after = read.answer(Plan(add_scaled(SITE, vector), where=last())).log_softmax(-1)[:, target]
    assert after.mean() > before + 1
    assert len(model.layout.point(SITE).module._forward_hooks) == n_hooks
    assert all(parameter.grad is None for parameter in model.hf.parameters())


def test_an_answer_is_dosed_no_higher_than_obedience_needs(tiny_model):
    model = tiny_model("llama")
    read = prefill(model, PROMPTS, SITE)
    word = model.tokenizer.decode([int(read.answer()[0].argmax())]).strip() or "the"
    found = learn_answers(read, read, [word], SITE)[word]
    assert 0 <= found.obeyed <= 1
    assert found.plan.edits or found.dose == 0
