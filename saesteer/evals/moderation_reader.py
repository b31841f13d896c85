"""Whether a reply does harm, read from the latents of request and reply, concluded by rules.

A span of tokens is read as one number a feature, the mean root of its latent, on from a quarter of
its threshold on. One concept is read from those of request and reply side by side, and from pairs
of them (`RowSpace`), since what harms in answer to one request is harmless after another. It holds
where the fit, to which both labels count alike, says more likely than not.

Most of it was chosen on four of five folds of the BeaverTails sample, by folds within them, with an
SAE at layer 18 that had seen 6 M tokens, read at its thresholds. There the score had an AUROC of
87.5 %; from the reply alone 85.8, from the request alone 76.6. By the root of the mean alone it was
86.8 at layer 18, 84.4 at layer 9, 80.3 at layer 4, and all three side by side gained nothing; nor
did greatest latents, last tokens, halves of the reply, a question asked after it, a chat template,
or the pair read twice. Mean activations at layer 18 had 87.9, words and pairs of words counted in
the text 81.1. Rules that ask for more (two of three of pair, reply and request; the pair and one of
its parts) were right half a point less often than the pair alone.

With the SAE of 105 M tokens that ships now, features were read from all, 1/2, 1/4, 1/8 and none of
their thresholds on, on eight of ten folds: AUROC 86.7, 87.9, 87.9, 87.6 and 87.6 at the best
regularisation of two or three. Then, on six to nine deals of the same sample into folds, all ten of
each: a linear score of root means and of shares of tokens has an AUROC of 87.5 % and a balanced
accuracy of 80.1, of mean roots 87.6 and 80.2, with rows brought to one length 88.0 and 80.3, with
pairs of features too 88.3 and 80.6, all with a threshold chosen by folds within the folds; with the
fit's own 80.9, with everyday pairs counting for as much as the file's, instead of a third, 81.2
(least and greatest deal 80.7 and 81.8), and harmless pairs refused fall from 3.8 % to 0.0. Mean
activations gain as much. All rows have been looked at by now, so that none of these figures is of
unseen text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saesteer.evals.answer_task import READERS, Verdict
from saesteer.evals.logic_reader import ReadText, random_sae
from saesteer.evals.moderation_data import WORDS
from saesteer.evals.questions import Question
from saesteer.features.row_space import Fit, RowSpace
from saesteer.rules import RuleBook
from saesteer.saes.sae import SAE

RULES = "unsafe :- harmful.\nsafe :- not unsafe."
HARMFUL = "harmful"
C = 18.0
"""Inverse strength of the regularisation, for latents and for activations."""
FAINT = 0.25
"""Share of its threshold from which a feature counts as on: what is too faint to rebuild from still
tells of harm."""
EVERY = 16
"""Of so many pairs one says how often a random SAE's features should fire."""
Spans = Sequence[Float[Tensor, "_ width"]]
"""Activations of a pair's request and of its reply."""


@final
@dataclass(frozen=True)
class PooledPairs:
    """A row for each pair, in blocks of columns, and whether its reply is unsafe."""

    blocks: tuple[Float[Tensor, "pairs _"], ...]
    unsafe: Bool[Tensor, " pairs"]


def pool_pair(spans: Spans, sae: SAE | None) -> tuple[Float[Tensor, " _"], ...]:
    """One pair's row, a block a span: the mean root of each latent.

    Without an SAE it is each span's mean activation.
    """
    if sae is None:
        return tuple(span.float().mean(0) for span in spans)
    return tuple(sae.encode(span.float()).sqrt().mean(0) for span in spans)


def spaces(sae: SAE, pairs: Sequence[Spans], seed: int) -> dict[str, SAE | None]:
    """What each of `READERS` reads: faint latents, a random SAE's, as many on, and activations.

    Args:
        pairs: some of them say how often the random SAE's features should fire.
    """
    faint = sae.fainter(FAINT)
    sample = torch.cat([span for spans in pairs[::EVERY] for span in spans]).float()
    return dict(zip(READERS, (faint, random_sae(faint, sample, seed), None), strict=True))


@final
@dataclass(frozen=True, eq=False)
class PairReader:
    """The concept's score, over an SAE's latents or (None) the activation."""

    score: Fit
    sae: SAE | None

    def facts(self, text: ReadText) -> set[str]:
        """The concepts that hold."""
        blocks = pool_pair([text.resid[0][list(at)] for at in text.sentences], self.sae)
        return {HARMFUL} if float(self.score.of([block[None] for block in blocks])) > 0 else set()


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
    """The two rules."""
    return RuleBook.parse(RULES)


def fit_pair_reader(
    pairs: PooledPairs, sae: SAE | None, used: Bool[Tensor, " pairs"]
) -> PairReader:
    """A score fitted on the used pairs.

    Raises:
        ContrastError: they have one label only.
    """
    return PairReader(RowSpace.of(pairs.blocks, used).fit(pairs.unsafe[used], C), sae)
