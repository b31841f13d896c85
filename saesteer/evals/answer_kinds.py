"""The kinds of problems that a comparison of answers knows, by the `kind` of a config's task."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from saesteer.config.answers import AnswerConfig, TaskKind
from saesteer.evals.answer_chains import ChainTask
from saesteer.evals.answer_moderation import ModerationTask
from saesteer.evals.answer_prover import ProverTask
from saesteer.evals.answer_task import AnswerTask
from saesteer.evals.answer_trains import TrainTask

KINDS: Mapping[TaskKind, Callable[[AnswerConfig], AnswerTask]] = {
    "prontoqa": ChainTask,
    "rail2country": TrainTask,
    "proverqa": ProverTask,
    "beavertails": ModerationTask,
}


def load_answer_task(config: AnswerConfig) -> AnswerTask:
    """The task that a config names."""
    return KINDS[config.task.kind](config)
