"""Generated problems say what they claim, by a solver that knows only their statements."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from saesteer.config.answers import AnswerConfig, AnswerTaskConfig
from saesteer.evals.answer_chains import ChainTask
from saesteer.evals.logic_problems import (
    Problem,
    ProblemShape,
    generate_problems,
    save_problems,
)
from saesteer.evals.logic_words import PEOPLE, PROPERTIES, PUBLISHED_KINDS, plural
from saesteer.evals.questions import read_questions
from saesteer.evals.shortcut import lexical_shortcut


def solve(problem: Problem) -> str:
    reached, denied = {problem.question.subject}, set()
    for _ in problem.statements:
        for s in problem.statements:
            if s.subject in reached:
                (reached if s.positive else denied).add(s.object)
    asked = problem.question.object
    if asked not in reached | denied:
        return "Unknown"
    return "True" if (asked in reached) == problem.question.positive else "False"


@pytest.mark.parametrize("style", ["published", "like", "near", "invented", "noun"])
def test_answers_are_what_the_statements_entail(style):
    for problem in generate_problems(40, style=style, seed=3):
        assert solve(problem) == problem.answer
        assert (problem.answer == "Unknown") == (problem.twin_of is not None)


def test_a_twin_lacks_one_link_of_the_proof_and_nothing_else():
    made = generate_problems(10, seed=1)
    for problem, twin in zip(made[::2], made[1::2], strict=True):
        gone = set(problem.statements) - set(twin.statements)
        assert len(gone) == 1
        assert gone <= set(problem.proof)
        assert twin.twin_of == problem.id
        assert twin.question == problem.question


def test_hops_are_the_links_between_fact_and_property():
    for problem in generate_problems(10, twins=False):
        assert len(problem.proof) == problem.hops + 1
    assert {p.hops for p in generate_problems(5, twins=False)} == {1, 2, 3, 4, 5}


def test_both_answers_and_decoys_of_the_asked_property_occur():
    made = generate_problems(60, twins=False)
    assert min(Counter(p.answer for p in made).values()) > 15
    for problem in made:
        about = [s for s in problem.statements if s.object == problem.question.object]
        assert {s.positive for s in about} == {True, False}


def test_spans_spell_the_words():
    for problem in generate_problems(5, twins=False):
        for s in (*problem.statements, problem.question):
            subject, object_ = s.text[slice(*s.subject_span)], s.text[slice(*s.object_span)]
            assert subject.lower().startswith(s.subject.lower())
            assert object_.startswith(s.object)


def test_equal_seeds_make_equal_problems_and_other_seeds_others():
    one, same, other = (generate_problems(3, seed=s) for s in (5, 5, 6))
    assert one == same
    assert one != other


@pytest.mark.parametrize("style", ["like", "invented", "noun"])
def test_names_kept_for_tests_never_occur_in_what_is_fitted_on(style):
    fitted, tested = (
        {s.subject for p in generate_problems(60, style=style, new=new) for s in p.statements}
        for new in (False, True)
    )
    kinds = tested - set(PEOPLE)
    assert len(kinds) > 40
    assert not kinds & {*fitted, *PUBLISHED_KINDS}


@pytest.mark.parametrize("n", [1, 2, 5])
def test_as_many_problems_are_generated_as_asked_for_each_with_its_twin(n):
    task = ChainTask(AnswerConfig(AnswerTaskConfig("prontoqa", n_test=n)))
    twins = [question.twin_of is not None for question in task.questions()]
    assert twins == [False, True] * n


def test_new_styles_use_names_of_their_own():
    made = generate_problems(10, style="invented")
    names = {s.subject for p in made for s in p.statements}
    assert not names & set(PUBLISHED_KINDS)


def test_nouns_are_no_other_words_and_have_plurals_of_their_own():
    made = generate_problems(400, style="noun", twins=False)
    nouns = {s.subject for p in made for s in p.statements} - set(PEOPLE)
    assert len(nouns) > 300
    assert not nouns & {*PROPERTIES, *map(str.lower, PEOPLE)}
    assert not nouns & set(map(plural, nouns))


@pytest.mark.parametrize(
    ("one", "several"),
    [("wumpus", "wumpuses"), ("blent", "blents"), ("daisy", "daisies"), ("toy", "toys")],
)
def test_plurals(one: str, several: str):
    assert plural(one) == several


def test_the_file_reads_back_in_the_published_format(tmp_path: Path):
    made = generate_problems(4)
    save_problems(made, tmp_path / "problems.json")
    read = read_questions(tmp_path / "problems.json")
    assert [q.answer for q in read] == [p.answer for p in made]
    assert [q.hops for q in read] == [p.hops for p in made]
    assert [q.twin_of for q in read] == [p.twin_of for p in made]


def test_the_lexical_shortcut_fails_on_twins(tmp_path: Path):
    made = generate_problems(60, shape=ProblemShape(n_distractors=1))
    save_problems(made, tmp_path / "problems.json")
    read = read_questions(tmp_path / "problems.json")
    right = [lexical_shortcut(q) == q.answer for q in read if q.twin_of]
    assert sum(right) == 0
