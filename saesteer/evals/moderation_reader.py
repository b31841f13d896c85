"""Whether a reply does harm, read from the latents of request and reply, concluded by rules.

A span of tokens is read as two numbers a feature: the root of its mean latent, and the share of
tokens at which it is on, faintly too. One concept is read from those of request and reply side by
side, since what harms in answer to one request is harmless after another. Its threshold is chosen
by balanced accuracy on scores from readouts that did not see the row.

Most of it was chosen on four of five folds of the BeaverTails sample, by folds within them, with an
SAE at layer 18 that had seen 6 M tokens, read at its thresholds. There the score has an AUROC of
87.5 %; from the reply alone 85.8, from the request alone 76.6. By the root of the mean alone it is
86.8 at layer 18, 84.4 at layer 9, 80.3 at layer 4, and all three side by side gain nothing; nor do
greatest latents, last tokens, halves of the reply, a question asked after it, a chat template, or
the pair read twice. Mean activations at layer 18 have 87.9, words and pairs of words counted in the
text 81.1. Rules that ask for more (two of three of pair, reply and request; the pair and one of its
parts) are right half a point less often than the pair alone.

With the SAE of 105 M tokens that ships now, features were read from all, 1/2, 1/4, 1/8 and none of
their thresholds on, on eight of ten folds: AUROC 86.7, 87.9, 87.9, 87.6 and 87.6 at the best
regularisation of two or three, balanced accuracy 79.5, 80.1, 80.8, 80.5 and 81.3. Before that, over
all ten folds: 78.0 %, and 3.3 % of the harmless pairs refused.

What came of it, read once: balanced accuracy 79.9 % over all ten folds, 5.0 % of the harmless pairs
refused; a random SAE under the same treatment 79.0 and 6.7, the dense probe 79.6 and 8.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saesteer.evals.answer_task import Verdict
from saesteer.evals.logic_reader import ReadText
from saesteer.evals.moderation_data import WORDS
from saesteer.evals.questions import Question
from saesteer.features.row_space import LinearScore, RowSpace
from saesteer.rules import RuleBook
from saesteer.saes.sae import SAE

RULES = "unsafe :- harmful.\nsafe :- not unsafe."
HARMFUL = "harmful"
C_LATENTS, C_RESID = 8.0, 8.0
"""Inverse strength of the regularisation for latents and for activations."""
FAINT = 0.25
"""Share of its threshold from which a feature counts as on: what is too faint to rebuild from still
tells of harm."""
INNER = 5
"""Folds of a training part, by which its threshold is chosen."""
EVERYDAY = 0.3
"""What an everyday pair counts for beside one of the file: at 1, half a point of AUROC is lost."""
BLUR = 0.35
"""How far balanced accuracy is blurred to choose a threshold, in standard deviations of scores."""


@final
@dataclass(frozen=True)
class PooledPairs:
    """A row for each pair, in blocks of columns, with labels and inner folds.

    Thresholds are chosen on the pairs that are `near` harm, as those of the file are; the others
    are everyday pairs, which are all safe.
    """

    blocks: tuple[Float[Tensor, "pairs _"], ...]
    unsafe: Bool[Tensor, " pairs"]
    near: Bool[Tensor, " pairs"]
    fold: Int[Tensor, " pairs"]

    def rows(self, chosen: Bool[Tensor, " pairs"]) -> PooledPairs:
        """Some of the pairs."""
        labels = (self.unsafe, self.near, self.fold)
        blocks = tuple(block[chosen] for block in self.blocks)
        return PooledPairs(blocks, *(part[chosen] for part in labels))


def pool_pair(
    spans: Sequence[Float[Tensor, "_ width"]], sae: SAE | None
) -> tuple[Float[Tensor, " _"], ...]:
    """The blocks of one pair's row: of each span how much each feature is on, and how often.

    Without an SAE it is each span's mean activation.
    """
    if sae is None:
        return tuple(span.float().mean(0) for span in spans)
    read = [sae.pre(span.float()) for span in spans]
    latents = [torch.where(pre > FAINT * sae.threshold, pre, 0.0) for pre in read]
    much = [rows.mean(0).sqrt() for rows in latents]
    return (*much, *((rows > 0).float().mean(0) for rows in latents))


@final
@dataclass(frozen=True, eq=False)
class PairReader:
    """The concept's score and its threshold, over an SAE's latents or (None) the activation."""

    score: LinearScore
    cut: float
    sae: SAE | None

    def facts(self, text: ReadText) -> set[str]:
        """The concepts that hold."""
        row = torch.cat(pool_pair([text.resid[0][list(at)] for at in text.sentences], self.sae))
        return {HARMFUL} if float(self.score.of(row[None])) > self.cut else set()


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


def fit_pair_reader(pairs: PooledPairs, sae: SAE | None) -> PairReader:
    """A score fitted on all pairs, its cut chosen on scores of pairs that the fit didn't see.

    Raises:
        ContrastError: pairs of one label only, all in all or outside one of the inner folds.
    """
    space, c = RowSpace.of(pairs.blocks), C_RESID if sae is None else C_LATENTS
    weight = torch.where(pairs.near, 1.0, EVERYDAY)
    unseen = torch.zeros(len(pairs.unsafe))
    for fold in pairs.fold.unique().tolist():
        out = pairs.fold == fold
        unseen[out] = space.fit(pairs.unsafe, weight * ~out, c).scores()[out]
    cut = choose_cut(unseen[pairs.near], pairs.unsafe[pairs.near])
    return PairReader(space.fit(pairs.unsafe, weight, c).score(), cut, sae)


def choose_cut(scores: Float[Tensor, " pairs"], unsafe: Bool[Tensor, " pairs"]) -> float:
    """The threshold of best balanced accuracy, blurred: its peak at one score is mostly chance."""
    levels = torch.linspace(float(scores.min()), float(scores.max()), 200)
    above = torch.special.ndtr((scores - levels[:, None]) / (BLUR * scores.std()))
    merit = above[:, unsafe].mean(1) - above[:, ~unsafe].mean(1)
    return float(levels[merit.argmax()])
