"""Wagons' colours read from activations, and the country that rules derive from them.

One concept says at which tokens a colour is told, by its word or by a thing of that colour; seven
at each site say which colour it is, averaged over those tokens, and what the sites say of a colour
is added up: an early layer still knows the word, a later one what it means here. The three
sentences that tell a colour most surely are the wagons, in order. Of the flags, that one is taken
as read whose three propositions are the surest together; its facts then go through the rules, and
the proof names them.

Seven concepts a site are fitted together, as a softmax over what all sites' features decode to, and
features are read from a quarter of their thresholds on. Chosen on the 2,999 wagons of things for
fitting, a fifth of the words left out in turn: of flags made of such wagons 34.8 % were read right;
with each colour against the rest, site by site, from the thresholds on 33.7 %, from the activations
themselves 35.3 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saesteer.evals.answer_task import Verdict
from saesteer.evals.logic_reader import Activations, ReadText, Saes
from saesteer.evals.questions import Question
from saesteer.evals.train_words import COLOURS, FLAGS
from saesteer.features.concepts import (
    Concept,
    ConceptReader,
    ProbeReadout,
    Readout,
    concept_readers,
)
from saesteer.features.fitting import along, decoded_readout, score_rows, softmax_regression
from saesteer.features.thresholds import choose_threshold
from saesteer.metrics.outliers import outlier_tokens
from saesteer.models import Site
from saesteer.rules import RuleBook
from saesteer.saes.sae import SAE

TOLD = "tells_a_colour"
N_FEATURES = 4096
"""Features that a colour is read from, the most telling of all: things of a colour share few."""
C_TOLD, C_COLOUR = 0.01, 0.001
"""Regularisation: the best of three for where a colour is told, on the things for tests, as the
layer was; of three for which it is, on things left out of fitting."""
FAINT = 0.25
"""Share of its threshold from which a feature counts as on."""
N_TOKENS = 4000
"""Tokens that tell a colour, and as many that tell none, that the first concept is fitted on."""
N_ENCODED = 100
"""Trains whose tokens are encoded together: some 1,000."""
Spans = Sequence[Sequence[int]]


@final
@dataclass(frozen=True)
class LabelledTrain:
    """A generated train's activations by site, the tokens that tell each colour, the colours.

    The first site is that of the concept that says where a colour is told.
    """

    resid: tuple[Activations, ...]
    told: tuple[tuple[int, ...], ...]
    colours: tuple[str, ...]


@final
@dataclass(frozen=True, eq=False)
class SiteReader:
    """Concepts at one site, over its SAE's latents or (None) the activation itself."""

    concepts: tuple[Concept, ...]
    sae: SAE | None

    @cached_property
    def reader(self) -> ConceptReader:
        """What reads the concepts, all at once."""
        (reader,) = concept_readers(self.concepts, self.sae)
        return reader

    def scores(self, resid: Activations) -> Float[Tensor, "pos concepts"]:
        """The concepts' scores of each token, in their order."""
        reader = self.reader
        scores = torch.zeros(len(resid), len(self.concepts))
        scores[:, list(reader.concepts)] = reader.scores(resid[None])[0].float()
        return scores


@final
@dataclass(frozen=True, eq=False)
class TrainReader:
    """Where a colour is told, at the first site, and which it is, at every site.

    `bias` is added to each colour's scores, summed over the sites.
    """

    told: SiteReader
    sites: tuple[SiteReader, ...]
    bias: Float[Tensor, " colours"]

    def conclude(self, text: ReadText, question: Question) -> Verdict:
        """The country of the train; none where fewer than three sentences can be read."""
        *sentences, _ = text.sentences
        resid = text.resid[0]
        wagons = self._wagons(self.told.scores(resid)[:, 0], usual_tokens(resid), sentences)
        if len(wagons) < 3:
            return Verdict(None)
        facts = surest_flag(self.colours(text.resid, wagons))
        book = flag_rules()
        country = next(c for c in question.words if c.lower() in book.closure(facts))
        return Verdict(country, str(book.program), book.prove(country.lower(), facts))

    def colours(self, resid: Sequence[Activations], spans: Spans) -> Float[Tensor, "spans colours"]:
        """Log-confidence of each colour over each span, from all sites."""
        each = zip(self.sites, resid, strict=True)
        scores = [mean_over(site.scores(rows), spans) for site, rows in each]
        return (torch.stack(scores).sum(0) + self.bias).log_softmax(-1)

    def _wagons(
        self,
        told: Float[Tensor, " pos"],
        usual: Bool[Tensor, " pos"],
        sentences: Sequence[Sequence[int]],
    ) -> list[list[int]]:
        """The tokens that tell the three wagons' colours, in order."""
        (concept,) = self.told.concepts
        read = [[t for t in at if t < len(told) and usual[t]] for at in sentences]
        best = [(max(float(told[t]) for t in at), at) for at in read if at]
        surest = sorted(sorted(best, key=lambda one: -one[0])[:3], key=lambda one: one[1])
        return [_around_best(told, at, concept.threshold) for _, at in surest]


def _around_best(told: Float[Tensor, " pos"], at: Sequence[int], threshold: float) -> list[int]:
    """The run of tokens above the threshold that the surest one stands in; it alone for none."""
    best = max(range(len(at)), key=lambda i: float(told[at[i]]))
    above = [float(told[t]) > threshold for t in at]
    start = next((i + 1 for i in range(best - 1, -1, -1) if not above[i]), 0)
    stop = next((i for i in range(best + 1, len(at)) if not above[i]), len(at))
    return list(at[start:stop])


def mean_over(rows: Float[Tensor, "pos columns"], spans: Spans) -> Float[Tensor, "spans columns"]:
    """The mean row of each span."""
    return torch.stack([rows[list(span)].mean(0) for span in spans])


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
    """Concepts from trains whose colours are known.

    Args:
        sites: those that the trains were read at.
        saes: one for each site, or none to read the activations themselves.

    Raises:
        ContrastError: a colour that never occurs.
    """
    spaces = saes or (None,) * len(sites)
    told = _fit_told(trains, sites[0], spaces[0], seed)
    rows = [_wagon_rows(trains, i, sae) for i, sae in enumerate(spaces)]
    decoded = [_decoded(own, sae) for own, sae in zip(rows, spaces, strict=True)]
    truth = torch.tensor([COLOURS.index(name) for train in trains for name in train.colours])
    weight, bias = softmax_regression(
        torch.cat(decoded, -1), truth, len(COLOURS), seed=seed, c=C_COLOUR
    )
    parts = weight.split([own.shape[1] for own in decoded], -1)
    fitted = zip(sites, spaces, rows, parts, strict=True)
    return TrainReader(told, tuple(_colour_concepts(truth, *each) for each in fitted), bias)


def _decoded(rows: Tensor, sae: SAE | None) -> Tensor:
    return rows if sae is None else rows @ sae.w_dec


def _colour_concepts(
    truth: Tensor, site: Site, sae: SAE | None, rows: Tensor, weight: Tensor
) -> SiteReader:
    """What one site adds to each colour's logit, `weight` [colours, d_model] of what is decoded."""
    concepts = list[Concept]()
    for index, (colour, direction) in enumerate(zip(COLOURS, weight, strict=True)):
        readout = (
            ProbeReadout(site, direction, 0.0)
            if sae is None
            else along(direction, rows, sae, N_FEATURES)
        )
        concepts.append(_concept(colour, readout, rows, truth == index))
    return SiteReader(tuple(concepts), sae)


def _wagon_rows(trains: Sequence[LabelledTrain], index: int, sae: SAE | None) -> Tensor:
    """One row for each wagon: the mean latents or activation of the tokens that tell its colour."""
    parts = list[Tensor]()
    for start in range(0, len(trains), N_ENCODED):
        some = trains[start : start + N_ENCODED]
        tokens = torch.cat([train.resid[index][_told(train)] for train in some]).float()
        latents = tokens if sae is None else sae.encode(tokens)
        lengths = [len(span) for train in some for span in train.told]
        parts += [own.mean(0) for own in latents.split(lengths)]
    return torch.stack(parts)


def _fit_told(
    trains: Sequence[LabelledTrain], site: Site, sae: SAE | None, seed: int
) -> SiteReader:
    """The concept that a colour is told, against tokens that tell none."""
    told = torch.cat([train.resid[0][_told(train)] for train in trains])
    other = torch.cat([train.resid[0][_away(train)] for train in trains])
    tokens = torch.cat([_some(told, seed), _some(other, seed)]).float()
    rows = tokens if sae is None else sae.encode(tokens)
    truth = torch.arange(len(rows)) < min(len(told), N_TOKENS)
    readout = decoded_readout(rows, truth, site, sae, n_features=N_FEATURES, c=C_TOLD, seed=seed)
    return SiteReader((_concept(TOLD, readout, rows, truth),), sae)


def _some(rows: Tensor, seed: int) -> Tensor:
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:N_TOKENS]]


def _told(train: LabelledTrain) -> list[int]:
    return [t for span in train.told for t in span]


def _away(train: LabelledTrain) -> list[int]:
    """Tokens that tell no colour."""
    usual, told = usual_tokens(train.resid[0]).tolist(), set(_told(train))
    return [t for t in range(len(usual)) if usual[t] and t not in told]


def _concept(name: str, readout: Readout, rows: Tensor, positive: Tensor) -> Concept:
    return Concept(name, readout, choose_threshold(score_rows(readout, rows), positive))
