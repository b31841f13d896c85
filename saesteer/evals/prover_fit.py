"""Readers for ProverQA's problems, fitted on generated ones alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from saesteer.evals.answer_task import Tick, fit_each
from saesteer.evals.logic_fit import Offsets
from saesteer.evals.logic_reader import ReadText, Saes
from saesteer.evals.prefill import overlapping, read_texts
from saesteer.evals.prover_problems import (
    ProverProblem,
    generate_prover_problems,
    prover_question,
)
from saesteer.evals.prover_reader import Mention, ProverReader, ProverReading, fit_prover_reader
from saesteer.evals.prover_roles import ROLES, TokenLabels
from saesteer.evals.prover_text import Sentence
from saesteer.evals.questions import Question
from saesteer.models import Model, Site

N_WHOLE = 320
"""Problems of which every token is kept: roles are fitted on them."""
N_CUT = 100
"""Problems more, whose words are new: what the cuts between predicates are set on."""
STRETCH = 320
"""Problems that are sorted by length before they are read."""
BATCH = 16


def fitting_problems(n: int, seed: int) -> list[ProverProblem]:
    """Generated problems, then `N_CUT` of other words."""
    made = generate_prover_problems(n, seed=seed)
    return made + generate_prover_problems(N_CUT, "cuts", seed=seed)


def fit_prover_readers(
    model: Model, saes: Saes, problems: Sequence[ProverProblem], tick: Tick, seed: int = 0
) -> Mapping[str, ProverReader]:
    """One reader each from the SAEs' latents, random SAEs' and the activations themselves.

    Args:
        problems: as `fitting_problems` makes them.
    """
    texts, n_whole = list[ProverReading](), min(N_WHOLE, len(problems) - N_CUT)
    for batch in prover_readings(model, [sae.site for sae in saes], problems):
        texts += batch if len(texts) < n_whole else [text.mentions_only() for text in batch]
        tick(f"read {len(texts)} of {len(problems)} generated problems")
    sample = (text.text.resid for text in texts[:n_whole])
    fit = partial(fit_prover_reader, texts, n_whole, N_CUT, saes[0].site, seed=seed)
    return fit_each(fit, saes, sample, tick, seed)


def prover_readings(
    model: Model, sites: Sequence[Site], problems: Sequence[ProverProblem]
) -> Iterator[list[ProverReading]]:
    """Activations of generated problems at some sites, with what their tokens are.

    The first `N_WHOLE` come first and the last `N_CUT` last; between them stretches of `STRETCH`
    are sorted by length. None is read beyond the sentence asked about, which nothing after it can
    change.
    """
    for start, stop in pairwise(_bounds(len(problems))):
        stretch = sorted(problems[start:stop], key=lambda one: len(str(one.to_dict()["context"])))
        for first in range(0, len(stretch), BATCH):
            yield _read(model, sites, stretch[first : first + BATCH])


def n_batches(n_fit: int) -> int:
    """How many batches `prover_readings` gives of the problems for a fit."""
    return sum(-(-(stop - start) // BATCH) for start, stop in pairwise(_bounds(n_fit + N_CUT)))


def _bounds(n: int) -> list[int]:
    last = max(n - N_CUT, 0)
    return sorted({0, min(N_WHOLE, last), *range(N_WHOLE, last, STRETCH), last, n})


def _read(
    model: Model, sites: Sequence[Site], problems: Sequence[ProverProblem]
) -> list[ProverReading]:
    asked = [prover_question(problem.to_dict()) for problem in problems]
    texts = [question.prompt[: question.sentences()[-1][1]] for question in asked]
    told = model.tokenizer(texts, return_offsets_mapping=True)["offset_mapping"]
    read = read_texts(model, texts, *sites)
    return [
        _labelled(problem, question, offsets, resid)
        for problem, question, offsets, resid in zip(problems, asked, told, read, strict=True)
    ]


def _labelled(
    problem: ProverProblem, question: Question, offsets: Offsets, resid: tuple[Tensor, ...]
) -> ProverReading:
    spans = question.sentences()
    sentences = overlapping(offsets, spans)
    predicates, people, labels = list[Mention](), list[Mention](), list[TokenLabels]()
    said = (*problem.sentences, problem.asked)
    for (start, _), sentence, tokens in zip(spans, said, sentences, strict=True):
        here = [offsets[t] for t in tokens]
        marks = [(start + mark.start, start + mark.end) for mark in sentence.marks]
        at = overlapping(here, marks)
        turns = [(start + a, start + b) for a, b in ([sentence.turn] if sentence.turn else [])]
        labels.append(_labels(sentence, at, overlapping(here, turns), question.prompt, here))
        named = [tokens[i] for mark, found in zip(sentence.marks, at, strict=True)
                 if mark.role == "person" for i in found]  # fmt: skip
        people += [(tuple(named), str(sentence.claim.person))] if named else []
        predicates += _mentions(sentence, at, tokens)
    joined = TokenLabels(
        *(torch.cat([getattr(one, key) for one in labels]) for key in ("roles", "turn", "inside"))
    )
    return ProverReading(
        ReadText(resid, tuple(sentences)), joined, tuple(predicates), tuple(people)
    )


def _labels(
    sentence: Sentence,
    at: Sequence[Sequence[int]],
    turns: Sequence[Sequence[int]],
    text: str,
    offsets: Offsets,
) -> TokenLabels:
    """What each token of a sentence is, from where its marks and its turn stand."""
    roles = torch.zeros(len(offsets), dtype=torch.long)
    for mark, found in zip(sentence.marks, at, strict=True):
        roles[list(found)] = ROLES.index(mark.role)
    turn = torch.full_like(roles, -1)
    for found in turns:
        turn[int((roles == ROLES.index("if")).nonzero()[-1]) + 1 :] = 0
        turn[found[0]] = 1
    inside = [a > 0 and text[a].isalnum() and text[a - 1].isalnum() for a, _ in offsets]
    return TokenLabels(roles, turn, torch.tensor(inside).long())


def _mentions(
    sentence: Sentence, at: Sequence[Sequence[int]], tokens: Sequence[int]
) -> list[Mention]:
    """The tokens of each literal's predicate."""
    spans: dict[int, list[int]] = {}
    for mark, found in zip(sentence.marks, at, strict=True):
        if mark.literal >= 0:
            spans.setdefault(mark.literal, []).extend(tokens[i] for i in found)
    return [(tuple(span), sentence.names[literal]) for literal, span in spans.items()]
