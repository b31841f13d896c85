"""Wagons' colours read from activations, and the country that rules derive from them.

One concept says at which token a colour is told, by its word or by a thing of that colour; seven
at each site say which colour it is, and what the sites say of a colour is added up: an early layer
still knows the word, a later one what it means here. The three sentences that tell a colour most
surely are the wagons, in order. Of the flags, that one is taken as read whose three propositions
are the surest together; its facts then go through the rules, and the proof names them.
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
from saesteer.evals.logic_reader import Activations, ReadText, Saes
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
    """A generated train's activations by site, the token that ends each colour's telling, colours.

    The first site is that of the concept that says where a colour is told.
    """

    resid: tuple[Activations, ...]
    told: tuple[int, ...]
    colours: tuple[str, ...]


@final
@dataclass(frozen=True, eq=False)
class SiteReader:
    """Concepts at one site, over its SAE's latents or (None) the activation itself.

    `sure` holds each concept's slope and offset, as `calibrate` gives them.
    """

    concepts: tuple[Concept, ...]
    sure: tuple[tuple[float, float], ...]
    sae: SAE | None

    @cached_property
    def reader(self) -> ConceptReader:
        """What reads the concepts, all at once."""
        (reader,) = concept_readers(self.concepts, self.sae)
        return reader

    def scores(self, resid: Activations) -> Float[Tensor, "pos concepts"]:
        """The concepts' scores, in their order."""
        reader = self.reader
        scores = torch.zeros(len(resid), len(self.concepts))
        scores[:, list(reader.concepts)] = reader.scores(resid[None])[0].float()
        return scores

    def logits(self, resid: Activations) -> Float[Tensor, "pos concepts"]:
        """How sure they are, as log-odds."""
        slope, offset = torch.tensor(self.sure).T
        return self.scores(resid) * slope + offset


@final
@dataclass(frozen=True, eq=False)
class TrainReader:
    """Where a colour is told, at the first site; which it is, at every site; and how sure that is.

    `sure` holds each colour's slope and offset for the sum of the sites' log-odds.
    """

    told: SiteReader
    sites: tuple[SiteReader, ...]
    sure: tuple[tuple[float, float], ...]

    def conclude(self, text: ReadText, question: Question) -> Verdict:
        """The country of the train; none where fewer than three sentences can be read."""
        *sentences, _ = text.sentences
        resid = text.resid[0]
        wagons = self._wagons(self.told.scores(resid)[:, 0], usual_tokens(resid), sentences)
        if len(wagons) < 3:
            return Verdict(None)
        facts = surest_flag(self.colours([rows[wagons] for rows in text.resid]))
        book = flag_rules()
        country = next(c for c in question.words if c.lower() in book.closure(facts))
        return Verdict(country, str(book.program), book.prove(country.lower(), facts))

    def colours(self, rows: Sequence[Activations]) -> Float[Tensor, "rows colours"]:
        """Log-confidence of each colour from the same tokens' activations at every site."""
        slope, offset = torch.tensor(self.sure).T
        total = sum_logits(self.sites, rows)
        return torch.nn.functional.logsigmoid(total * slope + offset)

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


def sum_logits(
    sites: Sequence[SiteReader], rows: Sequence[Activations]
) -> Float[Tensor, "rows colours"]:
    """What every site says of each colour, added up."""
    each = [site.logits(here) for site, here in zip(sites, rows, strict=True)]
    return torch.stack(each).sum(0)


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
    trains: Sequence[LabelledTrain], sites: Sequence[Site], saes: Saes, *, seed: int = 0
) -> TrainReader:
    """Concepts from trains whose colours are known; of five wagons one only calibrates.

    Args:
        sites: those that the trains were read at.
        saes: one for each site, or none to read the activations themselves.

    Raises:
        ContrastError: a colour that never occurs, or never among the wagons that calibrate.
    """
    spaces = saes or (None,) * len(sites)
    wagons = [
        torch.cat([train.resid[i][list(train.told)] for train in trains]).float()
        for i in range(len(sites))
    ]
    names = [colour for train in trains for colour in train.colours]
    truth = torch.tensor([[name == colour for colour in COLOURS] for name in names])
    told = _fit_told(wagons[0], _others(trains, seed), sites[0], spaces[0], seed)
    readers = tuple(
        _fit_colours(rows, truth, site, sae, seed)
        for rows, site, sae in zip(wagons, sites, spaces, strict=True)
    )
    apart = _kept_out(len(truth))
    total = sum_logits(readers, [rows[apart] for rows in wagons])
    sure = tuple(calibrate(total[:, i], truth[apart, i]) for i in range(len(COLOURS)))
    return TrainReader(told, readers, sure)


def _kept_out(n: int) -> Bool[Tensor, " n"]:
    return torch.arange(n) % 5 == 4


def _fit_told(wagons: Tensor, others: Tensor, site: Site, sae: SAE | None, seed: int) -> SiteReader:
    """The concept that a colour is told, against tokens that tell none."""
    tokens = torch.cat([wagons, others])
    rows = tokens if sae is None else sae.encode(tokens)
    truth = torch.arange(len(rows)) < len(wagons)
    readout = decoded_readout(rows, truth, site, sae, n_features=N_FEATURES, c=C, seed=seed)
    concept = _concept(TOLD, readout, rows, truth)
    return SiteReader((concept,), (calibrate(score_rows(readout, rows), truth),), sae)


def _fit_colours(
    wagons: Tensor, truth: Bool[Tensor, "n colours"], site: Site, sae: SAE | None, seed: int
) -> SiteReader:
    """A concept for each colour at one site."""
    fit = partial(decoded_readout, site=site, sae=sae, n_features=N_FEATURES, c=C, seed=seed)
    rows = wagons if sae is None else sae.encode(wagons)
    apart = _kept_out(len(rows))
    new = rows[apart]
    concepts, sure = list[Concept](), list[tuple[float, float]]()
    for colour, positive in zip(COLOURS, truth.T, strict=True):
        readout = fit(rows[~apart], positive[~apart])
        concepts.append(_concept(colour, readout, new, positive[apart]))
        sure.append(calibrate(score_rows(readout, new), positive[apart]))
    return SiteReader(tuple(concepts), tuple(sure), sae)


def _others(trains: Sequence[LabelledTrain], seed: int) -> Tensor:
    """Tokens that tell no colour; those of a thing's words before its last one are left out."""
    rows = torch.cat([train.resid[0][_away(train)] for train in trains])
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:N_OTHER]
    return rows[drawn].float()


def _away(train: LabelledTrain) -> list[int]:
    near = {t - back for t in train.told for back in range(4)}
    usual = usual_tokens(train.resid[0]).tolist()
    return [t for t in range(len(usual)) if usual[t] and t not in near]


def _concept(name: str, readout: Readout, rows: Tensor, positive: Tensor) -> Concept:
    return Concept(name, readout, choose_threshold(score_rows(readout, rows), positive))
