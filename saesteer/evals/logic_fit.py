"""Readers for logic problems, fitted on generated text alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import torch

from saesteer.evals.logic_problems import Problem, ProblemShape, Statement, generate_problems
from saesteer.evals.logic_reader import (
    ROLES,
    LabelledReading,
    ReadText,
    Saes,
    StatementReader,
    fit_reader,
    random_sae,
)
from saesteer.evals.logic_words import Style
from saesteer.evals.prefill import read_texts, token_positions
from saesteer.evals.questions import Question, question_of
from saesteer.models import Model, Site

STYLES: tuple[tuple[Style, float], ...] = (("published", 0.1), ("like", 0.2), ("invented", 0.7))
"""Shares of the kinds of names that readers are fitted on: new sounds are the harder part."""
N_SAMPLE = 104
"""Texts that are kept whole: their activations say how often a random SAE's features fire."""
STRETCH = 400
"""Problems that are sorted by length before they are read."""
READERS = ("activation-reasoning", "random-sae", "dense-probe")
Tick = Callable[[str], None]


def fitting_problems(n: int, seed: int) -> list[Problem]:
    """Generated problems of every kind of name, mixed, without twins."""
    made: list[Problem] = []
    for index, (style, share) in enumerate(STYLES):
        shape = ProblemShape(shuffled=index > 0)
        count = max(2, round(share * n))
        made += generate_problems(count, style=style, shape=shape, seed=seed, twins=False)
    random.Random(seed).shuffle(made)
    return made


def fit_readers(
    model: Model, saes: Saes, problems: Sequence[Problem], tick: Tick, seed: int = 0
) -> Mapping[str, StatementReader]:
    """One reader each from the SAEs' latents, random SAEs' and the activations themselves."""
    texts: list[LabelledReading] = []
    for batch in labelled_readings(model, [sae.site for sae in saes], problems):
        texts += batch if len(texts) < N_SAMPLE else [text.without_fillers() for text in batch]
        tick(f"read {len(texts)} of {len(problems)} generated problems")
    sample = zip(*(text.text.resid for text in texts[:N_SAMPLE]), strict=True)
    random = tuple(
        random_sae(sae, torch.cat(rows).float(), seed)
        for sae, rows in zip(saes, sample, strict=True)
    )
    readers: dict[str, StatementReader] = {}
    for name, space in zip(READERS, (saes, random, ()), strict=True):
        readers[name] = fit_reader(texts, saes[0].site, space, seed=seed)
        tick(f"fit {name}")
    return readers


def labelled_readings(
    model: Model, sites: Sequence[Site], problems: Sequence[Problem], batch_size: int = 8
) -> Iterator[list[LabelledReading]]:
    """Activations of generated problems at some sites, with what each token is.

    They stay in the model's dtype. The first `N_SAMPLE` come first; then stretches of `STRETCH` are
    read by length, so that little is read of padding.
    """
    starts = [0, *range(min(N_SAMPLE, len(problems)), len(problems), STRETCH)]
    for start, stop in pairwise([*starts, len(problems)]):
        stretch = sorted(problems[start:stop], key=lambda one: len(one.context))
        for first in range(0, len(stretch), batch_size):
            chosen = stretch[first : first + batch_size]
            asked = [question_of(problem.to_dict()) for problem in chosen]
            read = read_texts(model, [question.prompt for question in asked], *sites)
            yield [_labelled(model, *each) for each in zip(chosen, asked, read, strict=True)]


def _labelled(
    model: Model, problem: Problem, question: Question, resid: tuple[torch.Tensor, ...]
) -> LabelledReading:
    spans = question.sentences()
    statements = [*problem.statements, problem.question]
    sentences = token_positions(model, question.prompt, spans)
    roles = [
        _roles(model, question.prompt, start, statement, sentence)
        for (start, _), statement, sentence in zip(spans, statements, sentences, strict=True)
    ]
    names = tuple((statement.subject, statement.object) for statement in statements)
    return LabelledReading(ReadText(resid, tuple(sentences)), tuple(roles), names)


def _roles(
    model: Model, text: str, start: int, statement: Statement, sentence: Sequence[int]
) -> tuple[int, ...]:
    named = [(start + a, start + b) for a, b in (statement.subject_span, statement.object_span)]
    names = {t for span in token_positions(model, text, named) for t in span}
    ids = model.tokenizer(text)["input_ids"]
    words = {t: model.tokenizer.decode([ids[t]]).strip() for t in sentence}
    kinds = {"is": "relation", "are": "relation", "not": "negation"}
    return tuple(
        ROLES.index("name" if t in names else kinds.get(words[t], "filler")) for t in sentence
    )
