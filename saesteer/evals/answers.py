"""Compare ways to answer problems: readers that conclude and steer, and baselines that don't read.

What a kind of problems needs comes from its task; a method's answer is the first token that the
model generates under it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from saesteer.config.answers import AnswerConfig
from saesteer.evals.answer_baselines import ask_with_example, constant_steering
from saesteer.evals.answer_kinds import load_answer_task
from saesteer.evals.answer_plans import AnswerPlan, learn_answers, word_id
from saesteer.evals.answer_rows import Answered
from saesteer.evals.answer_task import AR, SHUFFLED, AnswerReader, AnswerTask, Verdict, shuffled
from saesteer.evals.logic_reader import ReadText
from saesteer.evals.prefill import prefill, token_positions
from saesteer.evals.questions import Question
from saesteer.evals.results import describe_model
from saesteer.methods.base import Family
from saesteer.models import Model, Site, load_model
from saesteer.models.limits import check_prompt
from saesteer.saes import SAE, check_width, load_sae
from saesteer.steer import Plan

Progress = Callable[[int, int, str], None]
N_LEARN = 8
"""Problems that answers are learned on, and as many that choose their doses."""
FAMILIES: Mapping[str, Family] = {
    "prompt": "prompt",
    "caa": "dense",
    "dense-probe": "dense",
    "sae-steering": "feature",
    "random-sae": "control",
    SHUFFLED: "control",
    "unsteered": "control",
}


@dataclass(frozen=True, eq=False)
class Fitted:
    """All that is fitted before a test problem is read; answers by the words of the options."""

    readers: Mapping[str, AnswerReader]
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
        DataError: a problem that has, with an example before it, more tokens than the model reads.
        SaesteerError: as loading a model or an SAE does; an SAE that does not fit the model.
    """
    started, tick = time.perf_counter(), progress or (lambda *_: None)
    task = load_answer_task(config)
    questions = task.questions()
    model = load_model(config.model, device=config.device, dtype=config.dtype)
    sae = load_sae(config.sae).to(device="cpu")
    for one in (sae, *task.beside):
        check_width(one, model)
    groups = _alike(sorted(questions, key=lambda question: -len(question.prompt)))
    steps = task.n_steps + len(groups)
    n_steps, done = steps + -(-len(questions) // config.batch_size), 0

    def report(what: str) -> None:
        nonlocal done
        done = min(done + 1, n_steps)
        tick(done, n_steps, what)

    longest = [alike[0] for alike in groups.values()]
    fitted, sites = fit_all(model, sae, task, longest, report), (sae.site, *task.other_sites)
    answers = Answers(config.task.seed)
    for alike in groups.values():
        for start in range(0, len(alike), config.batch_size):
            answer_batch(model, sites, alike[start : start + config.batch_size], fitted, answers)
            report("answer")
    tick(n_steps, n_steps, "done")
    return _results(config, task, model, answers, fitted) | {
        "seconds": time.perf_counter() - started,
        "reproduce": reproduce,
    }


def fit_all(
    model: Model,
    sae: SAE,
    task: AnswerTask,
    longest: Sequence[Question],
    tick: Callable[[str], None],
) -> Fitted:
    """Readers, answers and baselines, none of them from problems to answer.

    Readers come last: they take longest, and what can't be carried out fails before them.

    Args:
        longest: of the problems to answer, the longest with each kind of options.
    """
    answers, constant, asking = {}, {}, {}
    for question in longest:
        words = question.words
        practice = task.practice(words, 2 * N_LEARN)
        train, held = practice[:N_LEARN], practice[N_LEARN:]
        validation = prefill(model, [question.prompt for question in held], sae.site)
        learning = prefill(model, [question.prompt for question in train], sae.site)
        answers[words] = learn_answers(learning, validation, words, sae.site)
        right = [question.answer for question in held]
        constant[words] = constant_steering(model, sae, train, validation, right)
        shortest = min(held, key=lambda question: len(question.prompt))
        asking[words] = ask_with_example(model, task.how, shortest)
        asked = asking[words].prompt_edits[0].apply(question.prompt)
        check_prompt(model, model.tokenize(asked).input_ids.shape[1])
        tick(f"learn to say {', '.join(words)}")
    return Fitted(task.fit(model, sae, tick), answers, constant, asking)


def answer_batch(
    model: Model,
    sites: Sequence[Site],
    questions: Sequence[Question],
    fitted: Fitted,
    answers: Answers,
) -> None:
    """Every method's answers to some problems whose options are the same words."""
    words = questions[0].words
    prompts = [question.prompt for question in questions]
    read = prefill(model, prompts, *sites)
    plain = read.answer()
    said = {word: read.answer(answer.plan) for word, answer in fitted.answers[words].items()}
    texts = [
        ReadText(rows, tuple(token_positions(model, question.prompt, question.sentences())))
        for rows, question in zip(read.rows(), questions, strict=True)
    ]
    for name in dict.fromkeys((*fitted.readers, SHUFFLED)):
        for row, (question, text) in enumerate(zip(questions, texts, strict=True)):
            found = _conclude(name, fitted, text, question, answers.seed)
            logits = plain[row] if found.word is None else said[found.word][row]
            answered = _answered(model, question, logits, found.word)
            answers.add(name, answered)
            if name == AR:
                answers.samples.append(_sample(answered, found))
    others = {name: read.answer(plan) for name, plan in fitted.constant[words].items()}
    asked = [fitted.asking[words].prompt_edits[0].apply(prompt) for prompt in prompts]
    others["prompt"] = prefill(model, [str(prompt) for prompt in asked]).answer()
    for name, logits in {**others, "unsteered": plain}.items():
        for question, one in zip(questions, logits, strict=True):
            answers.add(name, _answered(model, question, one, None))


def _conclude(name: str, fitted: Fitted, text: ReadText, question: Question, seed: int) -> Verdict:
    """The named reader's verdict; a task without a null of its own is read with positions moved."""
    if name in fitted.readers:
        return fitted.readers[name].conclude(text, question)
    return fitted.readers[AR].conclude(shuffled(text, seed), question)


def _alike(questions: Sequence[Question]) -> dict[tuple[str, ...], list[Question]]:
    groups: dict[tuple[str, ...], list[Question]] = {}
    for question in questions:
        groups.setdefault(question.words, []).append(question)
    return dict(sorted(groups.items()))


def _answered(model: Model, question: Question, logits: Tensor, verdict: str | None) -> Answered:
    token, words = int(logits.argmax()), question.words
    ids = [word_id(model, word) for word in words]
    begun = [word for word, first in zip(words, ids, strict=True) if first == token]
    return Answered(
        question,
        said=model.tokenizer.decode([token]).strip(),
        likeliest=words[int(logits[ids].argmax())],
        verdict=verdict,
        begins=begun[0] if len(begun) == 1 else None,
    )


def _sample(answered: Answered, found: Verdict) -> dict[str, Any]:
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
    config: AnswerConfig, task: AnswerTask, model: Model, answers: Answers, fitted: Fitted
) -> dict[str, Any]:
    reading = (*fitted.readers, SHUFFLED)
    rows = [
        task.row(name, FAMILIES.get(name, "rule"), found, reads=name in reading)
        for name, found in answers.by_method.items()
    ]
    questions = [one.question for one in answers.by_method["unsteered"]]
    doses = {
        word: {"dose": plan.dose, "obeyed": plan.obeyed, "least": plan.least}
        for plans in fitted.answers.values()
        for word, plan in plans.items()
    }
    return {
        "model": describe_model(model),
        "task": task.kind,
        "n_problems": len(questions),
        "compare": [*rows, *task.control_rows(questions)],
        "answers": doses,
        "samples": answers.samples[: config.samples],
        "parted": [
            sample
            for sample, one in zip(answers.samples, answers.by_method[AR], strict=True)
            if one.parted
        ],
        "notes": list(task.notes),
        "settings": {"task": asdict(config.task), "sae": config.sae},
    }
