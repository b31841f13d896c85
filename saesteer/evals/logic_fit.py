"""Readers for logic problems, fitted on generated text alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from saesteer.evals.logic_problems import Problem, ProblemShape, Statement, generate_problems
from saesteer.evals.logic_reader import (
    ROLES,
    LabelledReading,
    ReadText,
    StatementReader,
    fit_reader,
    random_sae,
)
from saesteer.evals.logic_words import Style
from saesteer.evals.prefill import token_positions
from saesteer.evals.questions import Question, question_of
from saesteer.models import Model, pad_rows, record
from saesteer.saes.sae import SAE

STYLES: tuple[tuple[Style, float], ...] = (("published", 0.1), ("like", 0.2), ("invented", 0.7))
"""Shares of the kinds of names that readers are fitted on: new sounds are the harder part."""
N_SAMPLE = 100
"""Texts whose activations say how often a random SAE's features should fire."""
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
    model: Model, sae: SAE, problems: Sequence[Problem], tick: Tick, seed: int = 0
) -> Mapping[str, StatementReader]:
    """One reader each from the SAE's latents, a random SAE's and the activation itself."""
    texts: list[LabelledReading] = []
    for batch in labelled_readings(model, sae, problems):
        texts += batch
        tick(f"read {len(texts)} of {len(problems)} generated problems")
    resid = torch.cat([text.text.resid for text in texts[:N_SAMPLE]]).float()
    spaces = {READERS[0]: sae, READERS[1]: random_sae(sae, resid, seed), READERS[2]: None}
    readers: dict[str, StatementReader] = {}
    for name, space in spaces.items():
        readers[name] = fit_reader(texts, sae.site, space, seed=seed)
        tick(f"fit {name}")
    return readers


def labelled_readings(
    model: Model, sae: SAE, problems: Sequence[Problem], batch_size: int = 8
) -> Iterator[list[LabelledReading]]:
    """Activations of generated problems at the SAE's site, with what each token is.

    They stay in the model's dtype: 3,600 problems in bf16 take 700 MB.
    """
    for start in range(0, len(problems), batch_size):
        chosen = problems[start : start + batch_size]
        asked = [question_of(problem.to_dict()) for problem in chosen]
        ids = [list(model.tokenizer(question.prompt)["input_ids"]) for question in asked]
        batch = pad_rows(ids, model.pad_id, side="right").to(model.device)
        resid = record(model, batch, [sae.site])[sae.site].cpu()
        yield [
            _labelled(model, problem, question, resid[row, : len(ids[row])])
            for row, (problem, question) in enumerate(zip(chosen, asked, strict=True))
        ]


def _labelled(
    model: Model, problem: Problem, question: Question, resid: torch.Tensor
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
