"""Compare ways to answer problems: readers that conclude and steer, and baselines that don't read.

Everything is fitted on generated problems; the test file is opened before that only to see which
words its options use. A method's answer is the first token the model generates under it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saesteer.config.answers import AnswerConfig
from saesteer.evals.answer_baselines import ask_with_example, constant_steering
from saesteer.evals.answer_plans import AnswerPlan, learn_answers, word_id
from saesteer.evals.answer_rows import Answered, answer_row
from saesteer.evals.logic_conclude import Conclusion, answer_word, conclude
from saesteer.evals.logic_fit import READERS, fit_readers, fitting_problems
from saesteer.evals.logic_problems import Problem, generate_problems
from saesteer.evals.logic_reader import ReadText, Saes, StatementReader
from saesteer.evals.logic_store import load_or_fit, readers_folder
from saesteer.evals.logic_words import Style
from saesteer.evals.prefill import prefill, token_positions
from saesteer.evals.questions import Question, question_of, read_questions
from saesteer.evals.results import describe_model
from saesteer.evals.shortcut import lexical_shortcut
from saesteer.models import Model, load_model
from saesteer.saes import load_sae
from saesteer.steer import Plan
from saesteer.steer.store import stamp_of

Progress = Callable[[int, int, str], None]
N_LEARN = 8
"""Generated problems that answers are learned on, and as many that choose their doses."""
N_GENERATED = 200
"""Problems generated where no file is given, before twins: 40 for each number of hops."""
NEW_STYLES: tuple[Style, ...] = ("like", "invented")
"""What half each of the generated test problems' names sound like."""
FAMILIES = {"prompt": "prompt", "caa": "dense", "dense-probe": "dense", "unsteered": "control"}
NOTE = (
    "Names, relations and negations are read from activations; only where sentences end comes from "
    "the text. The lexical shortcut reads the text, and answers without following a chain."
)


@dataclass(frozen=True, eq=False)
class Fitted:
    """All that is fitted before a test problem is read; answers by the words of the options."""

    readers: Mapping[str, StatementReader]
    answers: Mapping[tuple[str, ...], Mapping[str, AnswerPlan]]
    constant: Mapping[tuple[str, ...], Mapping[str, Plan]]
    asking: Mapping[tuple[str, ...], Plan]


@dataclass(eq=False)
class Answers:
    """What every method answered so far, and some proofs."""

    seed: int
    by_method: dict[str, list[Answered]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, method: str, answered: Answered) -> None:
        """Note one answer."""
        self.by_method.setdefault(method, []).append(answered)


def run_answers(
    config: AnswerConfig, *, reproduce: str = "", progress: Progress | None = None
) -> dict[str, Any]:
    """Fit, answer and count.

    Raises:
        TaskError: a test file that can't be read.
        SaesteerError: as loading a model or an SAE does.
    """
    started, tick = time.perf_counter(), progress or (lambda *_: None)
    questions = test_questions(config)
    model = load_model(config.model, device=config.device, dtype=config.dtype)
    saes = tuple(load_sae(name).to(device="cpu") for name in (config.sae, *config.task.names))
    n_steps = config.task.n_fit + len(questions)
    fitted = fit_all(model, saes, config, questions, lambda done, what: tick(done, n_steps, what))
    answers = Answers(config.task.seed)
    ordered = sorted(questions, key=lambda question: (question.words, -len(question.prompt)))
    for start in range(0, len(ordered), config.batch_size):
        batch = _alike(ordered[start : start + config.batch_size])
        for part in batch:
            answer_batch(model, saes, part, fitted, answers)
        tick(config.task.n_fit + start + config.batch_size, n_steps, "answer")
    tick(n_steps, n_steps, "done")
    return _results(config, model, answers, fitted, reproduce, time.perf_counter() - started)


def test_questions(config: AnswerConfig) -> list[Question]:
    """The problems of the file, or generated ones with names that no fit has seen."""
    task = config.task
    if task.test is not None:
        return read_questions(task.test)[: task.n_test]
    half = -(-(task.n_test or N_GENERATED) // 2)
    return [
        question_of(problem.to_dict())
        for style in NEW_STYLES
        for problem in generate_problems(half, style=style, seed=task.seed + 10_000, new=True)
    ]


def fit_all(
    model: Model,
    saes: Saes,
    config: AnswerConfig,
    questions: Sequence[Question],
    tick: Callable[[int, str], None],
) -> Fitted:
    """Readers, answers and baselines, all from generated problems."""
    problems, sae = fitting_problems(config.task.n_fit, config.task.seed), saes[0]
    done = 0

    def report(what: str) -> None:
        nonlocal done
        done = min(done + config.batch_size, config.task.n_fit)
        tick(done, what)

    readers = _readers(model, saes, config, problems, report)
    answers, constant, asking = {}, {}, {}
    for words in dict.fromkeys(question.words for question in questions):
        train, held = (
            _with_words(problems[start : start + N_LEARN], words) for start in (0, N_LEARN)
        )
        validation = prefill(model, [question.prompt for question in held], sae.site)
        learning = prefill(model, [question.prompt for question in train], sae.site)
        answers[words] = learn_answers(learning, validation, words, sae.site)
        right = [question.answer for question in held]
        constant[words] = constant_steering(model, sae, train, validation, right)
        asking[words] = ask_with_example(min(held, key=lambda question: len(question.prompt)))
        report(f"learn to say {', '.join(words)}")
    return Fitted(readers, answers, constant, asking)


def _readers(
    model: Model,
    saes: Saes,
    config: AnswerConfig,
    problems: Sequence[Problem],
    tick: Callable[[str], None],
) -> Mapping[str, StatementReader]:
    """Fitted readers, or those that an earlier run with the same settings kept."""
    task = config.task

    def fit() -> Mapping[str, StatementReader]:
        reading = load_model(config.model, device=config.device, dtype=task.fit_dtype)
        return fit_readers(reading, saes, problems, tick, task.seed)

    if task.keep is None:
        return fit()
    settings = {"n_fit": task.n_fit, "seed": task.seed, "dtype": task.fit_dtype}
    root = Path(task.keep).expanduser()
    return load_or_fit(readers_folder(root, saes, model=stamp_of(model), **settings), saes, fit)


def answer_batch(
    model: Model, saes: Saes, questions: Sequence[Question], fitted: Fitted, answers: Answers
) -> None:
    """Every method's answers to some problems whose options are the same words."""
    words = questions[0].words
    prompts = [question.prompt for question in questions]
    read = prefill(model, prompts, *(sae.site for sae in saes))
    plain = read.answer()
    said = {word: read.answer(answer.plan) for word, answer in fitted.answers[words].items()}
    texts = [
        ReadText(rows, tuple(token_positions(model, question.prompt, question.sentences())))
        for rows, question in zip(read.rows(), questions, strict=True)
    ]
    for name in (*READERS, "shuffled"):
        reader = fitted.readers[READERS[0] if name == "shuffled" else name]
        for row, (question, text) in enumerate(zip(questions, texts, strict=True)):
            seen = shuffled(text, answers.seed) if name == "shuffled" else text
            found = conclude(reader.read(seen))
            word = answer_word(found.verdict, words)
            logits = plain[row] if word is None else said[word][row]
            answered = _answered(model, question, logits, word)
            answers.add(name, answered)
            if name == READERS[0]:
                answers.samples.append(_sample(answered, found))
    others = {name: read.answer(plan) for name, plan in fitted.constant[words].items()}
    asked = [fitted.asking[words].prompt_edits[0].apply(prompt) for prompt in prompts]
    others["prompt"] = prefill(model, [str(prompt) for prompt in asked]).answer()
    for name, logits in {**others, "unsteered": plain}.items():
        for question, one in zip(questions, logits, strict=True):
            answers.add(name, _answered(model, question, one, None))


def shuffled(text: ReadText, seed: int) -> ReadText:
    """The same activations at other positions: what is left when only their presence counts."""
    order = torch.randperm(len(text.resid[0]), generator=torch.Generator().manual_seed(seed))
    return replace(text, resid=tuple(rows[order] for rows in text.resid))


def _alike(questions: Sequence[Question]) -> list[list[Question]]:
    groups: dict[tuple[str, ...], list[Question]] = {}
    for question in questions:
        groups.setdefault(question.words, []).append(question)
    return list(groups.values())


def _with_words(problems: Sequence[Problem], words: tuple[str, ...]) -> list[Question]:
    """Generated problems, which are true or false, with the options of the test file."""
    return [
        replace(
            (asked := question_of(problem.to_dict())),
            words=words,
            answer=words[asked.words.index(asked.answer)],
        )
        for problem in problems
    ]


def _answered(model: Model, question: Question, logits: Tensor, verdict: str | None) -> Answered:
    said = model.tokenizer.decode([int(logits.argmax())]).strip()
    ids = [word_id(model, word) for word in question.words]
    return Answered(question, said, question.words[int(logits[ids].argmax())], verdict)


def _sample(answered: Answered, found: Conclusion) -> dict[str, Any]:
    return {
        "id": answered.question.id,
        "prompt": answered.question.prompt,
        "answer": answered.question.answer,
        "verdict": answered.verdict,
        "said": answered.said,
        "rules": found.rules,
        "proof": "" if found.proof is None else str(found.proof),
    }


def _results(
    config: AnswerConfig,
    model: Model,
    answers: Answers,
    fitted: Fitted,
    reproduce: str,
    seconds: float,
) -> dict[str, Any]:
    task, reading = config.task.kind, (*READERS, "shuffled")
    rows = [
        answer_row(task, name, FAMILIES.get(name, "rule"), found, reads=name in reading)
        for name, found in answers.by_method.items()
    ]
    questions = [one.question for one in answers.by_method["unsteered"]]
    by_words = [(question, lexical_shortcut(question) or "") for question in questions]
    shortcut = [Answered(question, word, word) for question, word in by_words]
    rows.append(answer_row(task, "lexical-shortcut", "control", shortcut, reads=False))
    doses = {
        word: {"dose": plan.dose, "obeyed": plan.obeyed, "least": plan.least}
        for plans in fitted.answers.values()
        for word, plan in plans.items()
    }
    return {
        "model": describe_model(model),
        "task": task,
        "n_problems": len(questions),
        "compare": rows,
        "answers": doses,
        "samples": answers.samples[: config.samples],
        "parted": [
            sample
            for sample, one in zip(answers.samples, answers.by_method[READERS[0]], strict=True)
            if one.parted
        ],
        "notes": [NOTE],
        "settings": {"n_fit": config.task.n_fit, "seed": config.task.seed, "sae": config.sae},
        "seconds": seconds,
        "reproduce": reproduce,
    }
