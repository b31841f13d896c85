"""Rows count generated words, not verdicts."""

from __future__ import annotations

import pytest

from saesteer.evals.answer_rows import Answered, answer_row, answers_page
from saesteer.evals.questions import Question


def question(answer: str = "True", hops: int | None = 2, twin_of: str | None = None) -> Question:
    return Question("q", "A b.", "A b?", ("True", "False", "Unknown"), answer, hops, twin_of)


def test_a_right_verdict_with_a_wrong_word_is_wrong_and_parted():
    rows = [
        Answered(question(), "False", "False", "True"),
        Answered(question(), "True", "True", "True"),
    ]
    row = answer_row("prontoqa", "reader", "rule", rows, reads=True)
    assert (row["accuracy"], row["verdict_accuracy"], row["parted"]) == (0.5, 1.0, 1)


def test_an_open_verdict_is_no_verdict():
    row = answer_row("t", "m", "rule", [Answered(question(), "True", "True", None)], reads=True)
    assert (row["accuracy"], row["verdict_accuracy"], row["n_open"], row["parted"]) == (1, 0, 1, 0)


@pytest.mark.parametrize("said", ["", "T", "A", "the"])
def test_a_word_that_only_begins_like_the_answer_is_wrong(said):
    assert not Answered(question(), said, "True").right


@pytest.mark.parametrize(
    ("said", "begins", "right"),
    [("Un", "Uncertain", True), ("Un", None, False), ("Un", "Until", False),
     ("U", "Uncertain", False), ("Unc", None, True)],
)  # fmt: skip
def test_a_short_first_token_counts_where_it_is_of_one_answer_alone(said, begins, right):
    asked = Question("q", "A b.", "A b?", ("True", "Until", "Uncertain"), "Uncertain")
    answered = Answered(asked, said, "True", "Uncertain", begins)
    assert (answered.right, answered.parted) == (right, not right)


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [("No", "No", True), ("no", "No", True), ("No", "Not", False), ("A", "A", True),
     ("N", "No", False), ("Not", "No", False), ("", "No", False)],
)  # fmt: skip
def test_an_answer_of_two_letters_can_be_right(said, answer, right):
    asked = Question("q", "A b.", "A b?", ("Yes", answer), answer)
    assert Answered(asked, said, answer).right == right


@pytest.mark.parametrize(
    ("said", "verdict", "parted"),
    [("Tru", "True", False), ("rue", "True", True), ("T", "True", True), ("x", None, False)],
)
def test_words_part_from_a_verdict_that_they_do_not_begin(said, verdict, parted):
    assert Answered(question(), said, "True", verdict).parted == parted


def test_hops_leave_twins_out_and_twins_have_a_share_of_their_own():
    rows = [
        Answered(question(hops=1), "True", "True"),
        Answered(question(hops=3), "False", "False"),
        Answered(question("Unknown", 3, "q"), "Unknown", "Unknown"),
    ]
    row = answer_row("t", "m", "rule", rows, reads=False)
    assert {h: found["accuracy"] for h, found in row["by_hops"].items()} == {"1": 1.0, "3": 0.0}
    assert (row["twins"]["accuracy"], row["twins"]["n"]) == (1.0, 1)
    assert row["accuracy_ci"][0] < row["accuracy"] < row["accuracy_ci"][1]
    assert "verdict_accuracy" not in row


def test_the_page_escapes_what_comes_from_data():
    row = answer_row("t", "<m>", "rule", [Answered(question(), "True", "True")], reads=False)
    sample = {"prompt": "<p>", "proof": "", "said": "x", "answer": "y"}
    page = answers_page(
        {"task": "t", "n_problems": 1, "compare": [row], "notes": [], "samples": [sample],
         "reproduce": "saesteer compare X"}
    )  # fmt: skip
    assert "&lt;m&gt;" in page
    assert "<m>" not in page
    assert "&lt;p&gt;" in page
