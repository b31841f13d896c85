"""Links conclude what they entail, and no more."""

from __future__ import annotations

from saesteer.evals.logic_conclude import NO, OPEN, YES, answer_word, conclude
from saesteer.evals.logic_reader import Link

CHAIN = [Link(0, 1, True), Link(1, 2, True), Link(2, 3, False)]


def test_a_chain_is_followed_to_its_end():
    assert conclude([*CHAIN, Link(0, 3, False)]).verdict == YES
    assert conclude([*CHAIN, Link(0, 3, True)]).verdict == NO


def test_the_proof_rests_on_the_asked_subject():
    proof = conclude([*CHAIN, Link(0, 3, True)]).proof
    assert proof is not None
    assert "n0 holds: given" in str(proof)
    assert str(proof).count(":-") == 4


def test_a_broken_chain_leaves_it_open():
    for gone in range(3):
        kept = CHAIN[:gone] + CHAIN[gone + 1 :]
        found = conclude([*kept, Link(0, 3, True)])
        assert (found.verdict, found.proof) == (OPEN, None)


def test_a_contradiction_leaves_it_open():
    assert conclude([*CHAIN, Link(1, 3, True), Link(0, 3, True)]).verdict == OPEN


def test_sentences_that_could_not_be_read_count_for_nothing():
    assert conclude([*CHAIN, None, Link(0, 3, False)]).verdict == YES
    assert conclude([*CHAIN, None]).verdict == OPEN


def test_an_open_verdict_is_a_word_only_where_the_options_have_one():
    assert answer_word(OPEN, ("True", "False")) is None
    assert answer_word(OPEN, ("True", "False", "Unknown")) == "Unknown"
    assert answer_word(NO, ("True", "False")) == "False"
