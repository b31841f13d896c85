"""Wagons' colours read from activations, and the country that rules derive from them.

One concept says at which tokens a colour is told, by its word or by a thing of that colour; seven
at each site say which colour it is, averaged over those tokens, and what the sites say of a colour
is added up: an early layer still knows the word, a later one what it means here. The three
sentences that tell a colour most surely are the wagons, in order. Of the flags, that one is taken
as read whose three propositions are the surest together; its facts then go through the rules, and
the proof names them.

Of 184 things left out of fitting, with all that share a word with them, latents of layers 4, 9 and
18 told 47 % of the colours at a thing's last token and 55 % over all of its tokens.
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
        """The concepts' scores of each token, in their order."""
        reader = self.reader
        scores = torch.zeros(len(resid), len(self.concepts))
        scores[:, list(reader.concepts)] = reader.scores(resid[None])[0].float()
        return scores

    def logits(self, resid: Activations, spans: Spans) -> Float[Tensor, "spans concepts"]:
        """How sure they are over each span of tokens, as log-odds."""
        slope, offset = torch.tensor(self.sure).T
        return mean_over(self.scores(resid), spans) * slope + offset


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
        facts = surest_flag(self.colours(text.resid, wagons))
        book = flag_rules()
        country = next(c for c in question.words if c.lower() in book.closure(facts))
        return Verdict(country, str(book.program), book.prove(country.lower(), facts))

    def colours(self, resid: Sequence[Activations], spans: Spans) -> Float[Tensor, "spans colours"]:
        """Log-confidence of each colour over each span, from all sites."""
        each = [site.logits(rows, spans) for site, rows in zip(self.sites, resid, strict=True)]
        slope, offset = torch.tensor(self.sure).T
        return torch.nn.functional.logsigmoid(torch.stack(each).sum(0) * slope + offset)

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
    """Concepts from trains whose colours are known; of five wagons one only calibrates.

    Args:
        sites: those that the trains were read at.
        saes: one for each site, or none to read the activations themselves.

    Raises:
        ContrastError: a colour that never occurs, or never among the wagons that calibrate.
    """
    spaces = saes or (None,) * len(sites)
    names = [colour for train in trains for colour in train.colours]
    truth = torch.tensor([[name == colour for colour in COLOURS] for name in names])
    told = _fit_told(trains, sites[0], spaces[0], seed)
    rows = [_wagon_rows(trains, i, sae) for i, sae in enumerate(spaces)]
    fitted = [
        _fit_colours(own, truth, site, sae, seed)
        for own, site, sae in zip(rows, sites, spaces, strict=True)
    ]
    total, new = torch.stack([logits for _, logits in fitted]).sum(0), truth[_kept_out(len(truth))]
    sure = tuple(calibrate(total[:, i], new[:, i]) for i in range(len(COLOURS)))
    return TrainReader(told, tuple(reader for reader, _ in fitted), sure)


def _kept_out(n: int) -> Bool[Tensor, " n"]:
    return torch.arange(n) % 5 == 4


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
    readout = decoded_readout(rows, truth, site, sae, n_features=N_FEATURES, c=C, seed=seed)
    concept = _concept(TOLD, readout, rows, truth)
    return SiteReader((concept,), (calibrate(score_rows(readout, rows), truth),), sae)


def _fit_colours(
    rows: Tensor, truth: Bool[Tensor, "n colours"], site: Site, sae: SAE | None, seed: int
) -> tuple[SiteReader, Float[Tensor, "m colours"]]:
    """A concept for each colour at one site, and its log-odds on the wagons kept out."""
    fit = partial(decoded_readout, site=site, sae=sae, n_features=N_FEATURES, c=C, seed=seed)
    apart = _kept_out(len(rows))
    known, new = rows[~apart], rows[apart]
    concepts, sure, logits = list[Concept](), list[tuple[float, float]](), list[Tensor]()
    for colour, positive in zip(COLOURS, truth.T, strict=True):
        readout = fit(known, positive[~apart])
        scores = score_rows(readout, new)
        slope, offset = calibrate(scores, positive[apart])
        concepts.append(_concept(colour, readout, new, positive[apart]))
        sure.append((slope, offset))
        logits.append(scores * slope + offset)
    return SiteReader(tuple(concepts), tuple(sure), sae), torch.stack(logits, -1)


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
