"""Problems that readers are fitted on, and what their tokens are labelled as."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from saesteer.evals.logic_fit import (
    N_CUT,
    N_SAMPLE,
    fitting_problems,
    labelled_readings,
    n_batches,
)
from saesteer.evals.logic_reader import ROLES
from saesteer.evals.logic_words import PROPERTIES, PUBLISHED_KINDS, kept_for_tests
from saesteer.evals.prefill import read_texts, token_positions
from saesteer.evals.questions import question_of
from saesteer.models import Model, Site

SITES = (Site.parse("resid_post.1"), Site.parse("resid_post.0"))


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Model]) -> Model:
    return tiny_model("llama")


def test_cuts_are_set_on_look_alikes_at_the_end_and_no_test_name_occurs():
    problems = fitting_problems(40, seed=0)
    assert len(problems) == 40 + N_CUT
    assert all(problem.id.startswith("near") for problem in problems[-N_CUT:])
    assert not any(problem.id.startswith("near") for problem in problems[:-N_CUT])
    links = [s for problem in problems for s in problem.statements if s.object.endswith("us")]
    names = {s.object for s in links} - {*PUBLISHED_KINDS, *PROPERTIES}
    assert len(names) > 200
    assert not any(kept_for_tests(name) for name in names)


def test_the_cut_ones_are_read_last_and_nothing_is_lost(model: Model):
    problems = fitting_problems(N_SAMPLE + 20, seed=1)
    read = [text for batch in labelled_readings(model, SITES, problems) for text in batch]
    told = [problem.question.subject for problem in problems]
    asked = [text.names[-1][0] for text in read]
    assert sorted(asked) == sorted(told)
    assert sorted(asked[-N_CUT:]) == sorted(told[-N_CUT:])
    assert sorted(asked[:N_SAMPLE]) == sorted(told[:N_SAMPLE])


@pytest.mark.parametrize("n", [2, N_CUT, N_CUT + N_SAMPLE + 3])
def test_batches_are_as_many_as_told(model: Model, n: int):
    problems = fitting_problems(n, seed=1)[:n]
    assert n_batches(n) == sum(1 for _ in labelled_readings(model, SITES, problems))


def test_a_reading_is_that_of_the_whole_prompt_with_each_token_labelled(model: Model):
    problems = fitting_problems(4, seed=2)[:3]
    ((*read,),) = labelled_readings(model, SITES, problems)
    by_asked = {question_of(p.to_dict()).prompt: p for p in problems}
    shortest_first = sorted(by_asked, key=lambda prompt: len(by_asked[prompt].context))
    for text, prompt in zip(read, shortest_first, strict=True):
        question = question_of(by_asked[prompt].to_dict())
        assert list(text.text.sentences) == token_positions(model, prompt, question.sentences())
        (whole,) = read_texts(model, [prompt], *SITES)
        for rows, expected in zip(text.text.resid, whole, strict=True):
            assert len(rows) < len(expected)
            torch.testing.assert_close(rows, expected[: len(rows)], rtol=1e-4, atol=1e-4)
        ids = model.tokenizer(prompt)["input_ids"]
        for sentence, roles in zip(text.text.sentences, text.roles, strict=True):
            words = [model.tokenizer.decode([ids[t]]).strip() for t in sentence]
            for word, role in zip(words, roles, strict=True):
                if word in ("is", "are", "not"):
                    assert ROLES[role] == {"not": "negation"}.get(word, word)
