"""Problems that ProverQA's readers are fitted on, and what their tokens are labelled as."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from saesteer.evals import prover_fit
from saesteer.evals.prefill import read_texts, token_positions
from saesteer.evals.prover_fit import N_CUT, fitting_problems, n_batches, prover_readings
from saesteer.evals.prover_problems import prover_question
from saesteer.evals.prover_roles import ROLES
from saesteer.models import Model, Site

SITES = (Site.parse("resid_post.1"), Site.parse("resid_post.0"))


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Model]) -> Model:
    return tiny_model("llama")


def test_the_ones_for_cuts_are_read_last_and_batches_are_as_many_as_told(
    model: Model, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(prover_fit, "N_WHOLE", 8)
    monkeypatch.setattr(prover_fit, "N_CUT", 6)
    problems = fitting_problems(20, seed=1)
    assert len(problems) == 26
    batches = list(prover_readings(model, SITES, problems))
    assert len(batches) == n_batches(20)
    asked = [text.people[-1][1] for batch in batches for text in batch]
    told = [str(problem.asked.claim.person) for problem in problems]
    assert sorted(asked[:8]) == sorted(told[:8])
    assert sorted(asked[-6:]) == sorted(told[-6:])
    assert [one.id.split("-")[0] for one in problems[-6:]] == ["cuts"] * 6


def test_a_reading_is_that_of_the_whole_prompt_with_each_token_labelled(model: Model):
    problems = fitting_problems(12, seed=2)[:12]
    (read,) = prover_readings(model, SITES, problems)
    shortest_first = sorted(problems, key=lambda one: len(one.to_dict()["context"]))
    words: dict[str, set[str]] = {}
    for text, problem in zip(read, shortest_first, strict=True):
        question = prover_question(problem.to_dict())
        sentences = token_positions(model, question.prompt, question.sentences())
        assert list(text.text.sentences) == sentences
        (whole,) = read_texts(model, [question.prompt], *SITES)
        for rows, expected in zip(text.text.resid, whole, strict=True):
            torch.testing.assert_close(rows, expected[: len(rows)], rtol=1e-4, atol=1e-4)
        ids = model.tokenizer(question.prompt)["input_ids"]
        tokens = [t for sentence in sentences for t in sentence]
        run: list[tuple[str, str]] = []
        for t, role in zip(tokens, text.labels.roles.tolist(), strict=True):
            run.append((model.tokenizer.decode([ids[t]]), ROLES[role]))
        for word, role in joined(run):
            words.setdefault(role, set()).add(word)
        for span, name in text.people:
            said = model.tokenizer.decode([ids[t] for t in span])
            assert said.replace(" ", "") == name.replace(" ", "")
    assert words["if"] <= {"If", "if", "When", "who"}
    assert words["or"] == {"or"}
    assert words["negation"] <= {"not", "cannot", "willnot", "neither", "nor"}
    assert {"butnotboth"} <= words["exclusive"]


def joined(run: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Neighbours of one role as one word, less the spaces: a tiny model's tokens are letters."""
    made: list[tuple[str, str]] = []
    for token, role in run:
        if made and made[-1][1] == role:
            made[-1] = (made[-1][0] + token.strip(), role)
        else:
            made.append((token.strip(), role))
    return made


def test_turns_are_told_once_in_sentences_that_need_it_and_nowhere_else(model: Model):
    problems = fitting_problems(30, seed=3)[:30]
    read = [text for batch in prover_readings(model, SITES, problems) for text in batch]
    shortest_first = sorted(problems, key=lambda one: len(one.to_dict()["context"]))
    seen = 0
    for text, problem in zip(read, shortest_first, strict=True):
        sizes = [len(sentence) for sentence in text.text.sentences]
        said = (*problem.sentences, problem.asked)
        for turn, one in zip(text.labels.turn.split(sizes), said, strict=True):
            assert int((turn == 1).sum()) == int(one.turn is not None)
            assert bool((turn >= 0).any()) == (one.turn is not None)
            seen += one.turn is not None
    assert seen > 3


def test_fitting_asks_for_so_many_and_those_for_cuts():
    assert len(fitting_problems(10, 0)) == 10 + N_CUT
