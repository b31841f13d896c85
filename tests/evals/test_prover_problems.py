"""Generated problems have the answers that they claim, and words kept for tests stay apart."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from dataclasses import replace

import pytest

from saesteer.config.answers import AnswerConfig, AnswerTaskConfig
from saesteer.errors import TaskError
from saesteer.evals.answer_prover import ProverTask, prover_questions
from saesteer.evals.logic_conclude import NO, OPEN, YES
from saesteer.evals.prover_claims import Claim, Formula, Signed, conclude_claims, entailed
from saesteer.evals.prover_problems import ANSWERS, generate_prover_problems, prover_question
from saesteer.evals.prover_text import write
from saesteer.evals.prover_words import Predicate, draw_people, draw_predicates

WORD = {YES: "True", NO: "False", OPEN: "Uncertain"}


@pytest.fixture(scope="module")
def problems():
    return generate_prover_problems(120, seed=4)


def test_answers_and_steps_come_evenly_and_are_what_all_worlds_say(problems):
    assert Counter(one.answer for one in problems) == dict.fromkeys(ANSWERS, 40)
    assert {one.steps for one in problems} == {1, 2, 3, 4}
    for one in problems:
        exact = entailed([said.claim for said in one.sentences], one.asked.claim)
        assert WORD[exact or ""] == one.answer


@pytest.mark.parametrize("words", [("Yes", "No"), ("Yes", "No", "Unclear")])
def test_practice_has_as_many_problems_whatever_options_a_file_has(words):
    practice = ProverTask(AnswerConfig(AnswerTaskConfig("proverqa"))).practice(words, 16)
    assert len(practice) == 16
    assert {one.answer for one in practice} == {*words}


def test_rules_get_almost_all_that_is_entailed(problems):
    found = [
        WORD[conclude_claims([said.claim for said in one.sentences], one.asked.claim).verdict]
        for one in map(numbered, problems)
    ]
    right = [word == one.answer for word, one in zip(found, problems, strict=True)]
    assert sum(right) >= 0.97 * len(right)


def numbered(problem):
    """The same problem with numbers for predicates, as a reader has them."""
    number: dict[object, int] = {}

    def formula(one: Formula) -> Formula:
        parts = (Signed(number.setdefault(p.name, len(number)), p.positive) for p in one.parts)
        return Formula(one.op, tuple(parts))

    def sentence(one):
        claim = one.claim
        condition = None if claim.condition is None else formula(claim.condition)
        return replace(one, claim=Claim(claim.person, formula(claim.result), condition))

    said = tuple(map(sentence, problem.sentences))
    return replace(problem, sentences=said, asked=sentence(problem.asked))


def test_a_problem_is_written_in_the_published_format(problems):
    for one in problems[:20]:
        question = prover_question(one.to_dict())
        assert question.answer == one.answer
        spans = question.sentences()
        found = [question.prompt[a:b] for a, b in spans]
        assert found == [said.text for said in (*one.sentences, one.asked)]


def test_marks_cover_the_words_of_every_literal_and_the_person(problems):
    for problem in problems:
        for said in problem.sentences:
            literals = [mark for mark in said.marks if mark.literal >= 0]
            assert len({mark.literal for mark in literals}) == len(said.names)
            for mark in literals:
                last = said.names[mark.literal].split()[-1]
                assert said.text[mark.start : mark.end].split()[-1].startswith(last[:2])
            people = [said.text[m.start : m.end] for m in said.marks if m.role == "person"]
            assert people == ([said.claim.person] if said.claim.person else [])
            assert people or any(mark.role == "everyone" for mark in said.marks)


def test_a_word_or_name_is_for_fitting_cuts_or_tests_and_for_nothing_else():
    rng = random.Random(0)
    words: list[set[str]] = []
    for part in ("fit", "cuts", "tests"):
        drawn = draw_predicates(rng, 400, part)
        verbs = {one.head for one in drawn if one.kind == "verb"}
        words.append(verbs | {name.split()[-1] for name in draw_people(rng, 60, part)})
    for one, other in itertools.combinations(words, 2):
        assert len(one) > 80
        assert not one & other


def test_a_predicate_takes_the_form_that_its_place_asks_for():
    plays, kind = Predicate("verb", "play", "chess"), Predicate("adjective", "kind")
    voice = Predicate("have", "calm voice")
    known = {one.key: one for one in (plays, kind, voice)}

    def said(part: Signed, seed: int = 1) -> set[str]:
        claim = Claim("Ada", Formula("all", (part,)))
        return {write(random.Random(seed), claim, known, "she").text for seed in range(150)}

    assert said(Signed(plays.key)) == {
        "Ada plays chess.", "Ada can play chess.", "Ada will play chess.", "Ada is playing chess.",
        "Ada may play chess.", "Ada must play chess.",
    }  # fmt: skip
    assert said(Signed(plays.key, False)) == {
        "Ada does not play chess.", "Ada cannot play chess.", "Ada will not play chess.",
    }  # fmt: skip
    assert said(Signed(kind.key, False)) == {"Ada is not kind."}
    assert "Ada has a calm voice." in said(Signed(voice.key))
    assert said(Signed(voice.key, False)) == {"Ada does not have a calm voice."}


def test_either_of_two_is_told_from_both():
    one, two = Predicate("noun", "painter"), Predicate("noun", "actor")
    known = {p.key: p for p in (one, two)}
    parts = (Signed(one.key), Signed(two.key))
    texts = {
        op: {
            write(random.Random(seed), Claim("Ada", Formula(op, parts)), known, "she").text
            for seed in range(60)
        }
        for op in ("all", "any", "one_of")
    }
    assert all(re.search("(not|never) both", text) for text in texts["one_of"])
    assert all(" or " in text and "not" not in text for text in texts["any"])
    assert all(" and " in text for text in texts["all"])
    assert "Ada is either a painter or an actor, but not both." in texts["one_of"]


def test_neither_denies_both_and_a_turn_is_marked_where_no_then_stands():
    one, two = Predicate("verb", "sing", "opera"), Predicate("adjective", "calm")
    known = {p.key: p for p in (one, two)}
    sings, calm = Signed(one.key), Signed(two.key)
    denied = Claim("Ada", Formula("all", (sings.opposite, calm.opposite)))
    assert write(random.Random(0), denied, known, "she").text == (
        "Ada neither sings opera nor is calm."
    )
    rule = Claim(None, Formula("all", (calm,)), Formula("all", (sings,)))
    found = [write(random.Random(seed), rule, known, "they") for seed in range(40)]
    for said in found:
        assert (said.turn is None) == (" then " in said.text)
        if said.turn is not None:
            start, end = said.turn
            assert said.text[start:end] in ("is", "are", "can", "will", "may", "must")
    assert 5 < sum(said.turn is None for said in found) < 35


def test_a_problem_may_lack_a_context_and_its_sentences_are_those_after_the_lead():
    row = {
        "id": 3, "context": "", "question": "Is it true or false? Dr. Ann sings.",
        "options": ["A) True", "B) False", "C) Uncertain"], "answer": "C",
    }  # fmt: skip
    question = prover_question(row)
    assert [question.prompt[a:b] for a, b in question.sentences()] == ["Dr. Ann sings."]
    assert question.prompt.startswith("Problem:")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "can't be read"),
        ("[]", "expected a list of at least one problem"),
        ('[{"context": "", "question": "Ann sings.", "answer": "D"}]', "problem 0: answer 'D'"),
        ('[{"context": 3, "question": "Ann sings.", "answer": "A"}]', "'context' is 3"),
        ('[{"context": "", "question": "", "answer": "A"}]', "'question' is ''"),
    ],
)
def test_a_file_that_is_none_says_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "easy.json"
    path.write_text(text)
    with pytest.raises(TaskError, match=re.escape(message)):
        prover_questions(path)


def test_a_file_that_is_missing_says_so(tmp_path):
    with pytest.raises(TaskError, match="none.json can't be read"):
        prover_questions(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("name", "group"), [("few-medium-test", "medium"), ("hard", "hard"), ("mine", "mine")]
)
def test_a_file_is_counted_under_the_difficulty_in_its_name(tmp_path, problems, name, group):
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps([one.to_dict() for one in problems[:2]]))
    assert [one.group for one in prover_questions(path)] == [group, group]
