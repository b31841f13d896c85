"""Generated trains spell flags, share nothing between fit and test; published rows are read."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from saesteer.config.answers import AnswerConfig, AnswerTaskConfig
from saesteer.errors import TaskError
from saesteer.evals.answer_trains import TrainTask
from saesteer.evals.train_problems import STYLES, generate_trains, published_trains, read_trains
from saesteer.evals.train_words import (
    COLOURS,
    EXTRAS,
    FLAGS,
    OPENINGS,
    PLAIN,
    TAILS,
    WORDINGS,
    content_words,
    things,
)


def test_things_for_fitting_and_for_tests_share_no_content_word():
    fit, test = (
        {
            word
            for found in things(part).values()
            for thing in found
            for word in content_words(thing)
        }
        for part in ("fit", "test")
    )
    assert len(fit) > 1000
    assert not fit & test


def test_no_thing_has_two_colours_and_none_names_a_colour():
    listed = [t for part in ("fit", "test") for found in things(part).values() for t in found]
    assert len(listed) == len(set(listed))
    assert not [thing for thing in listed if set(thing.split()) & {*COLOURS, "gold-coloured"}]
    assert all(len(found) == 12 for found in things("test").values())


def test_no_wording_serves_both_for_fitting_and_for_tests():
    for lists in (WORDINGS, EXTRAS, OPENINGS):
        assert not set(lists["fit"]) & set(lists["test"])
    assert set(TAILS["fit"]) & set(TAILS["test"]) == {""}


@pytest.mark.parametrize("part", ["fit", "test"])
@pytest.mark.parametrize("style", STYLES)
def test_wagons_tell_the_colours_of_their_countrys_flag_in_order(style, part):
    found = things(part)
    kinds = set()
    for train in generate_trains(30, style, part):
        assert train.colours == FLAGS[train.country]
        assert list(train.told) == sorted(train.told)
        for (start, end), colour in zip(train.told, train.colours, strict=True):
            told = train.text[start:end]
            kinds.add("plain" if told in PLAIN[colour] else "thing")
            assert told in PLAIN[colour] or told in found[colour]
    assert kinds == {"mono": {"plain"}, "meta": {"thing"}, "mixed": {"plain", "thing"}}[style]


def test_every_thing_comes_before_one_comes_again():
    trains = generate_trains(1500, "meta", "fit", flags=False)
    told = [train.text[a:b] for train in trains for a, b in train.told]
    assert set(told) == {thing for found in things("fit").values() for thing in found}
    assert {train.country for train in trains} == {""}


def test_the_same_seed_makes_the_same_trains_and_another_makes_others():
    assert generate_trains(9, "mixed", "test", 3) == generate_trains(9, "mixed", "test", 3)
    assert generate_trains(9, "mixed", "test", 3) != generate_trains(9, "mixed", "test", 4)


def test_a_published_row_loses_its_ending_and_its_article(tmp_path):
    file = tmp_path / "test.csv"
    file.write_text(
        "prompt,label\n\"A train of three cars. The first car is red.\nDue to the train's colours, "
        'I think it comes from the country of the Netherlands.",the Netherlands\n',
        encoding="utf-8-sig",
    )
    (question,) = read_trains(file, "mono")
    assert question.context == "A train of three cars. The first car is red."
    assert (question.answer, question.group) == ("Netherlands", "mono")
    assert "Netherlands" not in question.context


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,label\n", "expected rows of prompt and label, got none"),
        ("prompt,label\nA train.,Atlantis\n", "row 1: label is 'Atlantis'; expected one of Arg"),
        ("prompt,label\n ,Spain\n", "row 1: prompt is ' '; expected the description"),
        ("text,label\nA train.,Spain\n", "row 1: prompt is ''"),
    ],
)
def test_a_file_that_holds_no_trains_is_refused(tmp_path, text, message):
    file = tmp_path / "test.csv"
    file.write_text(text)
    with pytest.raises(TaskError, match=message):
        read_trains(file)
    with pytest.raises(TaskError, match="can't be read"):
        read_trains(tmp_path / "none.csv")


def test_out_of_the_hubs_reach_trains_are_generated_unless_the_hub_is_asked_for(monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", fail)
    assert published_trains(3) is None
    config = AnswerConfig(AnswerTaskConfig("rail2country", n_test=4))
    questions = TrainTask(config).questions()
    assert [question.group for question in questions] == ["mono"] * 4 + ["meta"] * 4 + ["mixed"] * 4
    asking = replace(config, task=AnswerTaskConfig("rail2country", source="hub"))
    with pytest.raises(TaskError, match="out of reach; set task.source=generated"):
        TrainTask(asking).questions()


def test_practice_uses_nothing_of_the_tests():
    config = AnswerConfig(AnswerTaskConfig("rail2country"))
    text = " ".join(q.context for q in TrainTask(config).practice(tuple(FLAGS), 16))
    assert not [t for found in things("test").values() for t in found if f"like {t}" in text]
