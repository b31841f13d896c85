"""Colours read back from planted activations, and the flags that follow from them."""

from __future__ import annotations

import pytest
import torch

from saesteer.errors import ContrastError
from saesteer.evals.answer_task import shuffled
from saesteer.evals.logic_reader import ReadText
from saesteer.evals.questions import Question
from saesteer.evals.train_problems import ASK
from saesteer.evals.train_reader import (
    LabelledTrain,
    TrainReader,
    fit_train_reader,
    flag_facts,
    flag_rules,
    surest_flag,
)
from saesteer.evals.train_words import COLOURS, COUNTRIES, FLAGS
from saesteer.models import Site
from saesteer.saes import SAE

WIDTH, SITE, EARLY = 24, Site.parse("resid_post.1"), Site.parse("resid_post.0")
SENTENCES = ((1, 2, 3), (4, 5), (6, 7, 8), (9, 10), (11, 12, 13), (14,))


def planted_sae(site: Site = SITE) -> SAE:
    eye, zeros = torch.eye(WIDTH), torch.zeros(WIDTH)
    return SAE(w_enc=eye, b_enc=zeros, w_dec=eye, b_dec=zeros, threshold=zeros + 0.2, site=site)


def train(colours, seed: int) -> LabelledTrain:
    """Wagons at tokens 3, 7 and 13: direction 0 tells a colour, 1 + c says which; and noise."""
    generator = torch.Generator().manual_seed(seed)
    resid = 0.1 * torch.rand(15, WIDTH, generator=generator)
    resid[:, 10:] += torch.rand(15, WIDTH - 10, generator=generator)
    told = (3, 7, 13)
    for place, colour in zip(told, colours, strict=True):
        resid[place, 0] += 2
        resid[place, 1 + COLOURS.index(colour)] += 2
    return LabelledTrain((resid,), tuple((place,) for place in told), tuple(colours))


def random_trains(n: int) -> list[LabelledTrain]:
    generator = torch.Generator().manual_seed(5)
    picks = torch.randint(len(COLOURS), (n, 3), generator=generator).tolist()
    return [train([COLOURS[i] for i in pick], seed) for seed, pick in enumerate(picks)]


@pytest.fixture(scope="module", params=["latents", "activations"])
def reader(request) -> TrainReader:
    saes = (planted_sae(),) if request.param == "latents" else ()
    return fit_train_reader(random_trains(60), [SITE], saes)


def asked(country: str) -> Question:
    return Question("t", "A train.", ASK, COUNTRIES, country)


def read(country: str, seed: int) -> ReadText:
    return ReadText(train(FLAGS[country], seed).resid, SENTENCES)


def test_every_flag_is_read_and_proved_from_its_wagons(reader):
    for seed, country in enumerate(COUNTRIES, 1000):
        found = reader.conclude(read(country, seed), asked(country))
        assert found.word == country
        assert all(fact in str(found.proof) for fact in flag_facts(FLAGS[country]))


def test_an_outlier_that_scores_higher_than_any_wagon_is_not_taken_for_one(reader):
    (resid,) = read("Italy", 1).resid
    resid[0] = 100 * torch.ones(WIDTH)
    text = ReadText((resid,), ((0,), *SENTENCES))
    assert reader.conclude(text, asked("Italy")).word == "Italy"


def test_at_other_positions_the_same_activations_say_nothing(reader):
    right = [
        reader.conclude(shuffled(read(country, seed), seed), asked(country)).word == country
        for country in COUNTRIES
        for seed in range(8)
    ]
    assert sum(right) / len(right) < 0.4


def test_fewer_than_three_sentences_give_no_verdict(reader):
    (resid,) = read("Italy", 1).resid
    assert (
        reader.conclude(ReadText((resid,), SENTENCES[:2] + SENTENCES[-1:]), asked("Italy")).word
        is None
    )
    beyond = ReadText((resid,), ((1, 2, 3), (4, 99), (), (200,)))
    assert reader.conclude(beyond, asked("Italy")).word is None


def test_one_misread_wagon_is_mended_by_the_two_that_are_sure():
    sure = torch.full((3, len(COLOURS)), -6.0)
    sure[0, COLOURS.index("green")] = sure[1, COLOURS.index("white")] = -0.1
    sure[2, COLOURS.index("blue")] = -0.5
    sure[2, COLOURS.index("orange")] = -1.0
    assert surest_flag(sure) == flag_facts(FLAGS["Ireland"])


def test_the_rules_derive_each_country_from_its_flag_and_no_other():
    for country, flag in FLAGS.items():
        derived = flag_rules().closure(flag_facts(flag)) - flag_facts(flag)
        assert derived == {country.lower()}
    assert flag_rules().prove("ireland", flag_facts(FLAGS["Italy"])) is None


def test_a_colour_that_never_occurs_is_refused():
    with pytest.raises(ContrastError, match="one label"):
        fit_train_reader(
            [train(("red", "blue", "red"), s) for s in range(10)], [SITE], (planted_sae(),)
        )


def halves(labelled: LabelledTrain) -> LabelledTrain:
    """The first site tells red alone, the second the other colours."""
    (resid,) = labelled.resid
    first, second = resid.clone(), resid.clone()
    first[:, 2:8] = second[:, 1] = 0.0
    return LabelledTrain((first, second), labelled.told, labelled.colours)


@pytest.mark.parametrize("sparse", [True, False])
def test_colours_that_no_site_tells_alone_are_told_by_all_together(sparse):
    trains = [halves(one) for one in random_trains(90)]
    sites = [SITE, EARLY]
    saes = tuple(planted_sae(site) for site in sites) if sparse else ()
    new = [halves(train(FLAGS[country], 1000 + i)) for i, country in enumerate(COUNTRIES)]

    def right(reader: TrainReader, rows: slice) -> int:
        return sum(
            reader.conclude(ReadText(one.resid[rows], SENTENCES), asked(country)).word == country
            for one, country in zip(new, COUNTRIES, strict=True)
        )

    alone = fit_train_reader(
        [LabelledTrain(t.resid[:1], t.told, t.colours) for t in trains], sites[:1], saes[:1]
    )
    assert right(alone, slice(1)) < 12
    assert right(fit_train_reader(trains, sites, saes), slice(2)) == 15


def long_mentions(labelled: LabelledTrain) -> LabelledTrain:
    """Things of two words, of which the first gives the colour and the last only ends them."""
    (resid,) = (rows.clone() for rows in labelled.resid)
    told = []
    for (last,) in labelled.told:
        resid[last - 1] = resid[last].clone()
        resid[last, 1:8] = 0.0
        told.append((last - 1, last))
    return LabelledTrain((resid,), tuple(told), labelled.colours)


@pytest.mark.parametrize("sparse", [True, False])
def test_a_colour_is_read_over_all_words_of_a_thing_and_not_at_its_last_alone(sparse):
    saes = (planted_sae(),) if sparse else ()
    trains = [long_mentions(one) for one in random_trains(60)]
    reader = fit_train_reader(trains, [SITE], saes)
    for seed, country in enumerate(COUNTRIES, 1000):
        one = long_mentions(train(FLAGS[country], seed))
        assert reader.conclude(ReadText(one.resid, SENTENCES), asked(country)).word == country


def test_a_word_away_from_the_surest_one_is_no_part_of_what_tells_the_colour(reader):
    for seed, (country, flag) in enumerate(FLAGS.items(), 1000):
        (resid,) = read(country, seed).resid
        for astray in (1, 11):  # two tokens before the one that tells, and one that tells nothing
            resid[astray, 0] += 1.5
            resid[astray, 1 + next(i for i, c in enumerate(COLOURS) if c not in flag)] += 1.5
        assert reader.conclude(ReadText((resid,), SENTENCES), asked(country)).word == country
        told = reader.told.scores(resid)[:, 0]
        assert float(told[1]) > reader.told.concepts[0].threshold
        spans = reader._wagons(told, torch.ones(15, dtype=torch.bool), SENTENCES[:-1])
        assert spans == [[3], [7], [13]]
