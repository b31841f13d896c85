"""Problems are read from their file, and only sentences' ends from their text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saesteer.errors import TaskError
from saesteer.evals.questions import question_of, read_questions
from saesteer.evals.shortcut import lexical_shortcut

ROW: dict[str, Any] = {
    "id": "1",
    "context": "Gorps are blents. Every blent is not red. Trazes are red. Max is a gorp.",
    "question": "Is the following statement true or false? Max is red.",
    "options": ["A) True", "B) False"],
    "answer": "B",
    "explanation": ["Max is a gorp.", "Gorps are blents.", "Max is a blent.",
                    "Every blent is not red.", "Max is not red."],
}  # fmt: skip


def test_the_answer_is_the_word_behind_the_letter():
    question = question_of(ROW)
    assert (question.words, question.answer, question.hops) == (("True", "False"), "False", 2)


def test_sentences_are_the_statements_and_the_one_in_question():
    question = question_of(ROW)
    found = [question.prompt[a:b] for a, b in question.sentences()]
    assert found == [
        "Gorps are blents.", "Every blent is not red.", "Trazes are red.", "Max is a gorp.",
        "Max is red.",
    ]  # fmt: skip


def test_a_last_sentence_needs_no_full_stop():
    bare = {key: ROW[key].removesuffix(".") for key in ("context", "question")}
    question = question_of({**ROW, **bare})
    found = [question.prompt[a:b] for a, b in question.sentences()]
    assert found[-3:] == ["Trazes are red.", "Max is a gorp", "Max is red"]
    quoted = question_of({**ROW, "question": 'True or false? "Max is red."'})
    start, end = quoted.sentences()[-1]
    assert "Max is red" in quoted.prompt[start:end]


def test_no_sentence_begins_the_text_since_a_models_first_token_tells_little():
    question = question_of(ROW)
    assert question.sentences()[0][0] > 0
    assert question.prompt.startswith("Problem: Gorps are blents. ")
    assert "Problem" not in question.context


def test_the_prompt_names_every_option():
    row = {**ROW, "options": ["A) True", "B) False", "C) Unknown"]}
    assert question_of(row).prompt.endswith("Answer True, False or Unknown.\nAnswer:")


def test_an_answer_without_explanation_has_no_hops():
    assert question_of({**ROW, "explanation": None}).hops is None


def test_the_shortcut_takes_the_sentence_whose_subject_is_an_object():
    assert lexical_shortcut(question_of(ROW)) == "False"
    other = {**ROW, "context": "Trazes are red. Max is a gorp."}
    assert lexical_shortcut(question_of(other)) is None
    numbered = {**ROW, "context": f"1. {ROW['context']}"}
    assert lexical_shortcut(question_of(numbered)) == "False"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": ""}, "problem: 'context' is ''; expected a text"),
        ({"answer": "C"}, "answer 'C' is none of the options A, B"),
        ({"options": ["yes"]}, r"options \['yes'\]; expected texts such as 'A\) True'"),
        ({"options": ["A) True"], "answer": "A"}, "and maybe 'C\\) Unknown', in this order"),
        ({"options": ["A) True", "B) true"]}, "in this order"),
        ({"options": ["A) False", "B) True"]}, "in this order"),
        ({"options": ["A) True", "B) False", "C) Unknown", "D) Both"]}, "in this order"),
        ({"question": "???"}, "holds no sentence"),
    ],
)
def test_a_faulty_problem_is_named(change, message):
    with pytest.raises(TaskError, match=message):
        question_of({**ROW, **change})


def test_half_a_character_and_a_byte_order_mark_are_read_as_everywhere(tmp_path: Path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps([{**ROW, "context": "Max is \ud83d red."}]), encoding="utf-8-sig")
    (question,) = read_questions(path)
    assert question.context == "Max is \ufffd red."


def test_a_faulty_file_is_named(tmp_path: Path):
    path = tmp_path / "p.json"
    with pytest.raises(TaskError, match="can't be read"):
        read_questions(path)
    path.write_text("[]")
    with pytest.raises(TaskError, match="at least one problem"):
        read_questions(path)
    path.write_text(json.dumps([ROW, {"context": "x."}]))
    with pytest.raises(TaskError, match="problem 1: 'question' is None"):
        read_questions(path)
