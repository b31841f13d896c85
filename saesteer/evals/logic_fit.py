"""Readers for logic problems, fitted on generated text alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise

import torch

from saesteer.evals.answer_task import Tick, fit_each
from saesteer.evals.logic_problems import Problem, ProblemShape, Statement, generate_problems
from saesteer.evals.logic_reader import (
    ROLES,
    LabelledReading,
    ReadText,
    Saes,
    StatementReader,
    fit_reader,
)
from saesteer.evals.logic_words import Style
from saesteer.evals.prefill import overlapping, read_texts
from saesteer.evals.questions import Question, question_of
from saesteer.models import Model, Site

STYLES: tuple[tuple[Style, float], ...] = (
    ("published", 0.1),
    ("like", 0.15),
    ("invented", 0.55),
    ("noun", 0.2),
)
"""Shares of the kinds of names that readers are fitted on: new sounds are the harder part. Of 100
problems about nouns outside the list 81 were read right without nouns, 88 with them."""
N_CUT = 100
"""Problems more, whose names look alike and are new: what the cuts between names are set on."""
N_SAMPLE = 104
"""Texts that are kept whole: their activations say how often a random SAE's features fire."""
STRETCH = 400
"""Problems that are sorted by length before they are read."""
BATCH = 16
"""Problems that are read at once."""
Offsets = Sequence[tuple[int, int]]
"""Where each token of a text begins and ends, in characters."""


def fitting_problems(n: int, seed: int) -> list[Problem]:
    """Generated problems of every kind of name, mixed, without twins, then `N_CUT` for the cuts."""
    made: list[Problem] = []
    for index, (style, share) in enumerate(STYLES):
        shape = ProblemShape(shuffled=index > 0)
        count = max(2, round(share * n))
        made += generate_problems(count, style=style, shape=shape, seed=seed, twins=False)
    random.Random(seed).shuffle(made)
    return made + generate_problems(N_CUT, style="near", seed=seed, twins=False)


def fit_readers(
    model: Model, saes: Saes, problems: Sequence[Problem], tick: Tick, seed: int = 0
) -> Mapping[str, StatementReader]:
    """One reader each from the SAEs' latents, random SAEs' and the activations themselves."""
    texts: list[LabelledReading] = []
    for batch in labelled_readings(model, [sae.site for sae in saes], problems):
        texts += batch if len(texts) < N_SAMPLE else [text.without_fillers() for text in batch]
        tick(f"read {len(texts)} of {len(problems)} generated problems")
    sample = (text.text.resid for text in texts[:N_SAMPLE])
    fit = partial(fit_reader, texts, saes[0].site, seed=seed)
    return fit_each(fit, saes, sample, tick, seed)


def labelled_readings(
    model: Model, sites: Sequence[Site], problems: Sequence[Problem], batch_size: int = BATCH
) -> Iterator[list[LabelledReading]]:
    """Activations of generated problems at some sites, with what each token is.

    They stay in the model's dtype. The first `N_SAMPLE` come first and the last `N_CUT` last;
    between them stretches of `STRETCH` are read by length, so that little is read of padding. None
    is read beyond the sentence asked about, which nothing after it can change.
    """
    for start, stop in _stretches(len(problems)):
        stretch = sorted(problems[start:stop], key=lambda one: len(one.context))
        for first in range(0, len(stretch), batch_size):
            chosen = stretch[first : first + batch_size]
            asked = [question_of(problem.to_dict()) for problem in chosen]
            texts = [question.prompt[: question.sentences()[-1][1]] for question in asked]
            told = model.tokenizer(texts, return_offsets_mapping=True)["offset_mapping"]
            read = read_texts(model, texts, *sites)
            yield [_labelled(*each) for each in zip(chosen, asked, told, read, strict=True)]


def n_batches(n: int) -> int:
    """In how many batches `labelled_readings` reads so many problems."""
    return sum(-(-(stop - start) // BATCH) for start, stop in _stretches(n))


def _stretches(n: int) -> list[tuple[int, int]]:
    last = max(n - N_CUT, 0)
    bounds = {0, min(N_SAMPLE, last), *range(N_SAMPLE, last, STRETCH), last, n}
    return list(pairwise(sorted(bounds)))


def _labelled(
    problem: Problem, question: Question, offsets: Offsets, resid: tuple[torch.Tensor, ...]
) -> LabelledReading:
    spans = question.sentences()
    statements = [*problem.statements, problem.question]
    sentences = overlapping(offsets, spans)
    roles = [
        _roles(question.prompt, offsets, start, statement, sentence)
        for (start, _), statement, sentence in zip(spans, statements, sentences, strict=True)
    ]
    names = tuple((statement.subject, statement.object) for statement in statements)
    return LabelledReading(ReadText(resid, tuple(sentences)), tuple(roles), names)


def _roles(
    text: str, offsets: Offsets, start: int, statement: Statement, sentence: Sequence[int]
) -> tuple[int, ...]:
    named = [(start + a, start + b) for a, b in (statement.subject_span, statement.object_span)]
    here = [offsets[t] for t in sentence]
    names = {sentence[at] for span in overlapping(here, named) for at in span}
    kinds = {"is": "is", "are": "are", "not": "negation"}
    words = [text[a:b].strip() for a, b in here]
    return tuple(
        ROLES.index("name" if t in names else kinds.get(word, "filler"))
        for t, word in zip(sentence, words, strict=True)
    )
