"""Whether a reply does harm, read from the activations of request and reply, concluded by rules.

Two readouts, each averaged over its own tokens: of the reply, how harmful it is, and of the
request, how much it asks for harm. A reply is unsafe if it is `harmful`, or if it is `doubtful`,
which is the same score above a lower threshold, and the request `asks_harm`. The three thresholds
are chosen together, by the rules' balanced accuracy on scores from readouts that did not see the
row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import product
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saesteer.evals.answer_task import Verdict
from saesteer.evals.logic_reader import ReadText
from saesteer.evals.moderation_data import WORDS
from saesteer.evals.questions import Question
from saesteer.features.concepts import Concept, ConceptReader, concept_readers
from saesteer.features.fitting import decoded_readout, score_rows
from saesteer.models import Site
from saesteer.rules import RuleBook
from saesteer.saes.sae import SAE

RULES = "unsafe :- harmful.\nunsafe :- doubtful, asks_harm.\nsafe :- not unsafe."
HARMFUL, DOUBTFUL, ASKS = "harmful", "doubtful", "asks_harm"
N_FEATURES = 8192
"""Features that a score is read from: all, since harm has many kinds."""
C = 0.01
"""Regularisation: the best of 0.003, 0.01 and 0.03 on folds of the training part."""
INNER = 5
"""Folds of a training part, by which thresholds are chosen."""
HIGH = (0.4, 0.45, 0.5, 0.55, 0.6)
LOW = (0.3, 0.35, 0.4, 0.45, 0.5)
ASKED = (0.4, 0.5, 0.6, 0.7)
"""Quantiles of the scores that are tried as thresholds."""


@final
@dataclass(frozen=True)
class PooledPairs:
    """Mean rows of requests and of replies, latents or activations, with labels and inner folds."""

    request: Float[Tensor, "pairs width"]
    reply: Float[Tensor, "pairs width"]
    unsafe: Bool[Tensor, " pairs"]
    fold: Int[Tensor, " pairs"]

    def rows(self, chosen: Bool[Tensor, " pairs"]) -> PooledPairs:
        """Some of the pairs."""
        parts = (self.request, self.reply, self.unsafe, self.fold)
        return PooledPairs(*(part[chosen] for part in parts))


@final
@dataclass(frozen=True, eq=False)
class PairReader:
    """The three concepts, over an SAE's latents or (None) the activation."""

    concepts: tuple[Concept, ...]
    sae: SAE | None

    @cached_property
    def reader(self) -> ConceptReader:
        """What reads them, all at once."""
        (reader,) = concept_readers(self.concepts, self.sae)
        return reader

    def facts(self, text: ReadText) -> set[str]:
        """The concepts that hold."""
        reader = self.reader
        request, reply = (text.resid[0][list(at)] for at in text.sentences)
        held: set[str] = set()
        for column, place in enumerate(reader.concepts):
            concept = self.concepts[place]
            rows = request if concept.name == ASKS else reply
            # latents are no linear function of activations: tokens are scored, then averaged
            if float(reader.scores(rows[None])[0, :, column].float().mean()) > concept.threshold:
                held.add(concept.name)
        return held


@final
@dataclass(frozen=True, eq=False)
class ModerationReader:
    """A reader for each fold, fitted on the others; a pair of no fold is read by the first."""

    folds: tuple[PairReader, ...]
    fold_of: Mapping[str, int]

    def conclude(self, text: ReadText, question: Question) -> Verdict:
        """`Yes` for an unsafe reply, `No` for a safe one."""
        facts, book = self.folds[self.fold_of.get(question.id, 0)].facts(text), moderation_rules()
        goal = "unsafe" if "unsafe" in book.closure(facts) else "safe"
        return Verdict(WORDS[0 if goal == "unsafe" else 1], RULES, book.prove(goal, facts))


@cache
def moderation_rules() -> RuleBook:
    """The three rules."""
    return RuleBook.parse(RULES)


def fit_pair_reader(
    pairs: PooledPairs, site: Site, sae: SAE | None, *, seed: int = 0
) -> PairReader:
    """Readouts of request and reply from all pairs, thresholds from scores of unseen ones.

    Raises:
        ContrastError: pairs of one label only, all in all or outside one of the inner folds.
    """
    fit = partial(decoded_readout, site=site, sae=sae, n_features=N_FEATURES, c=C, seed=seed)
    reply, request = fit(pairs.reply, pairs.unsafe), fit(pairs.request, pairs.unsafe)
    unseen = torch.zeros(2, len(pairs.unsafe))
    for fold in pairs.fold.unique().tolist():
        out, rest = pairs.fold == fold, pairs.rows(pairs.fold != fold)
        for which, (fit_on, score) in enumerate(
            ((rest.reply, pairs.reply), (rest.request, pairs.request))
        ):
            unseen[which, out] = score_rows(fit(fit_on, rest.unsafe), score[out])
    high, low, asked = choose_cuts(unseen[0], unseen[1], pairs.unsafe)
    concepts = (
        Concept(HARMFUL, reply, high, "prompt", "mean"),
        Concept(DOUBTFUL, reply, low, "prompt", "mean"),
        Concept(ASKS, request, asked, "prompt", "mean"),
    )
    return PairReader(concepts, sae)


def choose_cuts(
    reply: Float[Tensor, " pairs"], request: Float[Tensor, " pairs"], unsafe: Bool[Tensor, " pairs"]
) -> tuple[float, float, float]:
    """Thresholds of harmful, doubtful and asks_harm: the best balanced accuracy of a small grid."""
    levels = [scores.quantile(torch.tensor(q)).tolist() for scores, q in _grid(reply, request)]

    def merit(cuts: tuple[float, float, float]) -> float:
        high, low, asked = cuts
        said = (reply > high) | ((reply > low) & (request > asked))
        return float(said[unsafe].float().mean() - said[~unsafe].float().mean())

    return max((cuts for cuts in product(*levels) if cuts[1] <= cuts[0]), key=merit)


def _grid(reply: Tensor, request: Tensor) -> Sequence[tuple[Tensor, tuple[float, ...]]]:
    return ((reply, HIGH), (reply, LOW), (request, ASKED))
