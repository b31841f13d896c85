"""Baselines that read nothing: asking with an example, and steering that is the same for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from saesteer.data.contrast import Contrast, Example
from saesteer.evals.answer_plans import word_id
from saesteer.evals.prefill import Prefill
from saesteer.evals.questions import Question
from saesteer.methods import CAA, FeatureSteering, Method, Prompting
from saesteer.models import Model
from saesteer.saes.sae import SAE
from saesteer.steer import Plan

STRENGTHS = (0.25, 0.5, 1.0, 2.0)
"""Strengths tried on validation."""


def ask_with_example(model: Model, how: str, example: Question) -> Plan:
    """Say how to go about it, and show one solved problem."""
    return Prompting(f"{how}\n\n{example.prompt} {example.answer}").fit(model, _pairs([example]))


def constant_steering(
    model: Model, sae: SAE, train: Sequence[Question], validation: Prefill, answers: Sequence[str]
) -> Mapping[str, Plan]:
    """CAA and plain SAE steering towards right answers, at the strength that does best.

    Both are fitted on the same problems, answered rightly and wrongly; read at the answer.
    """
    contrast = _pairs(train)
    methods: dict[str, Method] = {
        "caa": CAA(),
        "sae-steering": FeatureSteering(sae, n_features=5, select="activation", dose=1.0),
    }
    fitted = {name: method.fit(model, contrast, sae.site) for name, method in methods.items()}
    targets = [word_id(model, word) for word in answers]
    return {name: _best(plan, validation, targets) for name, plan in fitted.items()}


def _best(plan: Plan, validation: Prefill, targets: Sequence[int]) -> Plan:
    def right(strength: float) -> int:
        said = validation.answer(plan.with_strength(strength)).argmax(-1).tolist()
        return sum(one == target for one, target in zip(said, targets, strict=True))

    return plan.with_strength(max(STRENGTHS, key=right))


def _pairs(questions: Sequence[Question]) -> Contrast:
    examples = [
        Example(f" {word}", int(word == question.answer), "train", question.id, question.prompt)
        for question in questions
        for word in dict.fromkeys((question.answer, *question.words))
        if word == question.answer or word == _wrong(question)
    ]
    return Contrast(tuple(examples), "answers")


def _wrong(question: Question) -> str:
    return next(word for word in question.words if word != question.answer)
