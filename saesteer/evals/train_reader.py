"""Wagons' colours read from activations, and the country that rules derive from them.

One concept says at which token a colour is told, by its word or by a thing of that colour; seven
say which colour it is. The three sentences that tell a colour most surely are the wagons, in order.
Of the flags, that one is taken as read whose three propositions are the surest together; its facts
then go through the rules, and the proof names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saesteer.evals.answer_task import Verdict
from saesteer.evals.logic_reader import Activations, ReadText
from saesteer.evals.questions import Question
from saesteer.evals.train_words import COLOURS, FLAGS
from saesteer.features.concepts import Concept, ConceptReader, Readout, concept_readers
from saesteer.features.fitting import decoded_readout, score_rows
from saesteer.features.thresholds import calibrate, choose_threshold
from saesteer.metrics.outliers import outlier_tokens
from saesteer.models import Site
from saesteer.rules import RuleBook
from saesteer.saes.sae import SAE

TOLD = "tells_a_colour"
N_FEATURES = 4096
"""Features that a colour is read from, the most telling of 8,192: things of a colour share few."""
C = 0.01
"""Regularisation: the best of 0.003, 0.01 and 0.03 on the things for tests, as the layer was."""
N_OTHER = 4000
"""Tokens that tell no colour, drawn from all, that the first concept is fitted on."""


@final
@dataclass(frozen=True)
class LabelledTrain:
    """A generated train's activations, the token that ends each colour's telling, the colours."""

    resid: Activations
    told: tuple[int, ...]
    colours: tuple[str, ...]


@final
@dataclass(frozen=True, eq=False)
class TrainReader:
    """The concepts, over an SAE's latents or (None) the activation, and how sure scores make one.

    `sure` holds each colour's slope and offset, as `calibrate` gives them.
    """

    concepts: tuple[Concept, ...]
    sure: tuple[tuple[float, float], ...]
    sae: SAE | None

    def conclude(self, text: ReadText, question: Question) -> Verdict:
        """The country of the train; none where fewer than three sentences can be read."""
        *sentences, _ = text.sentences
        (resid,) = text.resid
        scores = self._scores(resid)
        wagons = self._wagons(scores[:, 0], usual_tokens(resid), sentences)
        if len(wagons) < 3:
            return Verdict(None)
        slope, offset = torch.tensor(self.sure).T
        sure = torch.nn.functional.logsigmoid(scores[wagons, 1:] * slope + offset)
        facts = surest_flag(sure)
        book = flag_rules()
        country = next(c for c in question.words if c.lower() in book.closure(facts))
        return Verdict(country, str(book.program), book.prove(country.lower(), facts))

    @cached_property
    def reader(self) -> ConceptReader:
        """What reads the concepts, all at once."""
        (reader,) = concept_readers(self.concepts, self.sae)
        return reader

    def _scores(self, resid: Activations) -> Float[Tensor, "pos concepts"]:
        reader = self.reader
        scores = torch.zeros(len(resid), len(self.concepts))
        scores[:, list(reader.concepts)] = reader.scores(resid[None])[0].float()
        return scores

    def _wagons(
        self,
        told: Float[Tensor, " pos"],
        usual: Bool[Tensor, " pos"],
        sentences: Sequence[Sequence[int]],
    ) -> list[int]:
        """The tokens that tell the three wagons' colours, in order."""
        read = [[t for t in at if t < len(told) and usual[t]] for at in sentences]
        best = [max(at, key=lambda t: float(told[t])) for at in read if at]
        return sorted(sorted(best, key=lambda t: -float(told[t]))[:3])


def usual_tokens(resid: Activations) -> Bool[Tensor, " pos"]:
    """Tokens that are no outliers: those, such as the first, score higher than any that tells."""
    return ~outlier_tokens(resid)


@cache
def flag_rules() -> RuleBook:
    """One rule for each country: three wagons' colours, in order."""
    return RuleBook.parse(
        "\n".join(
            f"{country.lower()} :- {', '.join(sorted(flag_facts(flag)))}."
            for country, flag in FLAGS.items()
        )
    )


def flag_facts(flag: Sequence[str]) -> set[str]:
    """`{"green_1", "white_2", "orange_3"}`."""
    return {f"{colour}_{place}" for place, colour in enumerate(flag, 1)}


def surest_flag(sure: Float[Tensor, "3 colours"]) -> set[str]:
    """The facts of the flag with the greatest sum of log-confidences; the first of equals."""
    totals = {
        country: sum(float(sure[i, COLOURS.index(colour)]) for i, colour in enumerate(flag))
        for country, flag in FLAGS.items()
    }
    return flag_facts(FLAGS[max(totals, key=totals.__getitem__)])


def fit_train_reader(
    trains: Sequence[LabelledTrain], site: Site, sae: SAE | None, *, seed: int = 0
) -> TrainReader:
    """Concepts from trains whose colours are known; of five wagons one only calibrates.

    Raises:
        ContrastError: a colour that never occurs, or never among the wagons that calibrate.
    """
    fit = partial(decoded_readout, site=site, sae=sae, n_features=N_FEATURES, c=C, seed=seed)
    told = torch.cat([train.resid[list(train.told)] for train in trains]).float()
    tokens = torch.cat([told, _others(trains, seed)])
    rows = tokens if sae is None else sae.encode(tokens)
    is_told = torch.arange(len(rows)) < len(told)
    concepts, sure = [_concept(TOLD, fit(rows, is_told), rows, is_told)], []
    names = [colour for train in trains for colour in train.colours]
    wagons, kept_out = rows[: len(told)], torch.arange(len(told)) % 5 == 4
    for colour in COLOURS:
        positive = torch.tensor([name == colour for name in names])
        readout = fit(wagons[~kept_out], positive[~kept_out])
        new, truth = wagons[kept_out], positive[kept_out]
        concepts.append(_concept(colour, readout, new, truth))
        sure.append(calibrate(score_rows(readout, new), truth))
    return TrainReader(tuple(concepts), tuple(sure), sae)


def _others(trains: Sequence[LabelledTrain], seed: int) -> Tensor:
    """Tokens that tell no colour; those of a thing's words before its last one are left out."""
    rows = torch.cat([train.resid[_away(train)] for train in trains])
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:N_OTHER]
    return rows[drawn].float()


def _away(train: LabelledTrain) -> list[int]:
    near = {t - back for t in train.told for back in range(4)}
    usual = usual_tokens(train.resid).tolist()
    return [t for t in range(len(train.resid)) if usual[t] and t not in near]


def _concept(name: str, readout: Readout, rows: Tensor, positive: Tensor) -> Concept:
    return Concept(name, readout, choose_threshold(score_rows(readout, rows), positive))
