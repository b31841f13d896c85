"""Readers for ProverQA's problems, fitted on generated ones alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from saesteer.evals.answer_task import READERS, Tick
from saesteer.evals.logic_fit import Offsets
from saesteer.evals.logic_reader import ReadText, Saes, random_sae
from saesteer.evals.prefill import overlapping, read_texts
from saesteer.evals.prover_reader import Mention, ProverReader, ProverReading, fit_prover_reader
from saesteer.evals.prover_roles import ROLES
from saesteer.evals.prover_text import Sentence
from saesteer.evals.prover_problems import ProverProblem, prover_question
from saesteer.models import Model, Site

N_WHOLE = 320
"""Problems of which every token is kept: roles are fitted on them."""
STRETCH = 320
"""Problems that are sorted by length before they are read."""
BATCH = 16


def fit_prover_readers(
    model: Model, saes: Saes, problems: Sequence[ProverProblem], tick: Tick, seed: int = 0
) -> Mapping[str, ProverReader]:
    """One reader each from the SAEs' latents, random SAEs' and the activations themselves."""
    texts: list[ProverReading] = []
    for batch in prover_readings(model, [sae.site for sae in saes], problems):
        texts += batch if len(texts) < N_WHOLE else [text.mentions_only() for text in batch]
        tick(f"read {len(texts)} of {len(problems)} generated problems")
    n_whole = min(N_WHOLE, len(texts))
    sample = zip(*(text.text.resid for text in texts[:n_whole]), strict=True)
    random = tuple(
        random_sae(sae, torch.cat(rows).float(), seed)
        for sae, rows in zip(saes, sample, strict=True)
    )
    readers: dict[str, ProverReader] = {}
    for name, space in zip(READERS, (saes, random, ()), strict=True):
        readers[name] = fit_prover_reader(texts, n_whole, saes[0].site, space, seed=seed)
        tick(f"fit {name}")
    return readers


def prover_readings(
    model: Model, sites: Sequence[Site], problems: Sequence[ProverProblem]
) -> Iterator[list[ProverReading]]:
    """Activations of generated problems at some sites, with what their tokens are.

    The first `N_WHOLE` come first, the others by stretches sorted by length. None is read beyond
    the sentence asked about, which nothing after it can change.
    """
    bounds = sorted({0, min(N_WHOLE, len(problems)), len(problems)})
    bounds = [*range(0, bounds[1], STRETCH), *range(bounds[1], len(problems), STRETCH)]
    for start, stop in zip(bounds, [*bounds[1:], len(problems)], strict=True):
        stretch = sorted(problems[start:stop], key=lambda one: len(str(one.to_dict()["context"])))
        for first in range(0, len(stretch), BATCH):
            yield _read(model, sites, stretch[first : first + BATCH])


def _read(
    model: Model, sites: Sequence[Site], problems: Sequence[ProverProblem]
) -> list[ProverReading]:
    asked = [prover_question(problem.to_dict()) for problem in problems]
    texts = [question.prompt[: question.sentences()[-1][1]] for question in asked]
    told = model.tokenizer(texts, return_offsets_mapping=True)["offset_mapping"]
    read = read_texts(model, texts, *sites)
    return [
        _labelled(problem, question.sentences(), offsets, resid)
        for problem, question, offsets, resid in zip(problems, asked, told, read, strict=True)
    ]


def _labelled(
    problem: ProverProblem,
    spans: Sequence[tuple[int, int]],
    offsets: Offsets,
    resid: tuple[torch.Tensor, ...],
) -> ProverReading:
    sentences = overlapping(offsets, spans)
    roles, claimed, predicates, people = [], [], list[Mention](), list[Mention]()
    said = (*problem.sentences, problem.asked)
    for (start, _), sentence, tokens in zip(spans, said, sentences, strict=True):
        marks = [(start + mark.start, start + mark.end) for mark in sentence.marks]
        at = overlapping([offsets[t] for t in tokens], marks)
        here, leans = _tokens(sentence, at, len(tokens))
        roles.append(here)
        claimed.append(leans)
        predicates += _mentions(sentence, at, tokens)
        named = [
            tokens[i]
            for mark, found in zip(sentence.marks, at, strict=True)
            if mark.role == "person"
            for i in found
        ]
        people += [(tuple(named), str(sentence.claim.person))] if named else []
    return ProverReading(
        ReadText(resid, tuple(sentences)),
        tuple(roles), tuple(claimed), tuple(predicates), tuple(people),
    )  # fmt: skip


def _tokens(
    sentence: Sentence, at: Sequence[Sequence[int]], n: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The role of each token, and whether it is claimed."""
    roles, claimed = [ROLES.index("filler")] * n, [-1] * n
    said = {mark.role for mark in sentence.marks}
    for mark, found in zip(sentence.marks, at, strict=True):
        for index in found:
            roles[index] = ROLES.index(mark.role)
            if mark.role == "content" and "if" in said and "then" not in said:
                claimed[index] = int(mark.claimed)
    return tuple(roles), tuple(claimed)


def _mentions(
    sentence: Sentence, at: Sequence[Sequence[int]], tokens: Sequence[int]
) -> list[Mention]:
    """The tokens of each literal's predicate."""
    spans: dict[int, list[int]] = {}
    for mark, found in zip(sentence.marks, at, strict=True):
        if mark.literal >= 0:
            spans.setdefault(mark.literal, []).extend(tokens[i] for i in found)
    return [(tuple(span), sentence.names[literal]) for literal, span in spans.items()]
