"""Scorers are rules that can be checked by hand."""

from __future__ import annotations

import pytest

from saesteer.errors import TaskError
from saesteer.evals.scorers import RATE_CLIP, LexiconRate, PhrasePresent, build_scorer


def test_vader_orders_feelings() -> None:
    vader = build_scorer("vader")
    assert vader("A wonderful, happy day.") > vader("A day.") > vader("A terrible, sad day.")
    assert vader("") == 0.0


def test_lexicon_rate_is_hits_per_ten_words() -> None:
    rate = LexiconRate(("sea", "deep water"), ("land",))
    assert rate("the sea is wide and the sea is old indeed") == pytest.approx(2.0)
    assert rate("deep water and more words here to make ten now") == pytest.approx(1.0)
    assert rate("the land is wide and dry and old and flat indeed") == pytest.approx(-10 / 11)
    assert rate("") == 0.0


def test_lexicon_rate_matches_whole_words_in_any_case() -> None:
    rate = LexiconRate(("sea", "don't"))
    assert rate("search season undersea") == 0.0
    assert rate("SEA x x x x x x x x x") == pytest.approx(1.0)
    assert rate("I don’t x x x x x x x x") == pytest.approx(1.0)


def test_repeating_a_word_does_not_pay_beyond_the_clip() -> None:
    rate = LexiconRate(("sea",), ("land",))
    assert rate("sea " * 50) == RATE_CLIP
    assert rate("land " * 50) == -RATE_CLIP


def test_a_phrase_is_there_or_not() -> None:
    refuses = PhrasePresent(("I can't help", "I'm sorry"))
    assert refuses("Well, I’m sorry, no.") == 1.0
    assert refuses("Sure, here it is.") == 0.0


@pytest.mark.parametrize(
    ("kind", "lexicon", "message"),
    [
        ("judge", None, "scorer 'judge' does not exist; choose from vader, lexicon, phrase."),
        ("lexicon", {"positive": "sea"}, "expected a list of words"),
        ("lexicon", {"positive": []}, "positive is empty"),
        ("phrase", {}, "phrases is empty"),
    ],
)
def test_scorers_that_mean_nothing_are_refused(
    kind: str, lexicon: dict[str, object] | None, message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        build_scorer(kind, lexicon)
