"""ProverQA: facts and rules about people, read as claims and concluded by rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from saesteer.config.answers import AnswerConfig
from saesteer.evals.answer_rows import Answered, answer_row
from saesteer.evals.answer_task import AnswerReader, AnswerTask, Tick, with_words
from saesteer.evals.prover_fit import fit_prover_readers, fitting_problems, n_batches
from saesteer.evals.prover_problems import ANSWERS, generate_prover_problems, prover_question
from saesteer.evals.questions import Question, read_questions
from saesteer.models import Model, load_model
from saesteer.saes import SAE

LEVELS = {1: "easy", 2: "easy", 3: "medium", 4: "medium"}
"""What ProverQA calls a problem of so many steps."""
N_GENERATED = 240
"""Problems generated where no file is given: 60 of each number of steps."""


@final
@dataclass(frozen=True)
class ProverTask(AnswerTask):
    """Everything is fitted on generated problems, and nothing on the files."""

    config: AnswerConfig
    kind = "proverqa"
    how = (
        "Apply the rules whose conditions the facts about the person meet, until one says whether "
        "the statement holds. What neither follows nor is ruled out is uncertain."
    )
    notes = (
        "Predicates, people, joints and negations are read from activations; only where sentences "
        "end comes from the text.",
        "Rules derive what each sentence entails and chains of that, but no proof by cases over "
        "several sentences; of generated problems, read without error, none needs one.",
    )

    @property
    def n_steps(self) -> int:
        """One for every batch of generated problems, one for each reader."""
        return n_batches(self.config.task.n_fit) + 3

    def questions(self) -> list[Question]:
        """The problems of the files, or generated ones of words that no fit has seen.

        Raises:
            TaskError: a file that can't be read.
        """
        task = self.config.task
        if task.test is not None:
            files = [Path(name.strip()) for name in task.test.split(",")]
            return [one for path in files for one in prover_questions(path)[: task.n_test]]
        n, seed = task.n_test or N_GENERATED, task.seed + 10_000
        return [
            replace(prover_question(one.to_dict()), group=LEVELS[one.steps])
            for one in generate_prover_problems(n, "tests", seed=seed)
        ]

    def practice(self, words: tuple[str, ...], n: int) -> list[Question]:
        """Generated problems with the options of the test file, maybe without the third."""
        made = generate_prover_problems(2 * n, seed=self.config.task.seed + 1)
        problems = [one for one in made if ANSWERS.index(one.answer) < len(words)][:n]
        return [with_words(prover_question(problem.to_dict()), words) for problem in problems]

    def fit(self, model: Model, sae: SAE, tick: Tick) -> Mapping[str, AnswerReader]:  # noqa: ARG002
        """A reader each from SAEs' latents, random SAEs' and the activations themselves."""
        config, task = self.config, self.config.task
        reading = load_model(config.model, device=config.device, dtype=task.fit_dtype)
        problems = fitting_problems(task.n_fit, task.seed)
        return fit_prover_readers(reading, (sae, *self.beside), problems, tick, task.seed)

    def row(
        self, name: str, family: str, found: Sequence[Answered], *, reads: bool
    ) -> dict[str, Any]:
        """How often the word was right, by difficulty."""
        return answer_row(self.kind, name, family, found, reads=reads)

    def control_rows(self, questions: Sequence[Question]) -> list[dict[str, Any]]:
        """What always saying the commonest answer gets."""
        given = [question.answer for question in questions]
        word = max(dict.fromkeys(given), key=given.count)
        found = [Answered(question, word, word) for question in questions]
        return [answer_row(self.kind, "commonest-answer", "control", found, reads=False)]


def prover_questions(path: Path) -> list[Question]:
    """The problems of one file; their group is the difficulty that the file's name tells.

    Raises:
        TaskError: a file that can't be read, or a problem without one of its parts.
    """
    levels = [level for level in ("easy", "medium", "hard") if level in path.stem]
    group = levels[0] if levels else path.stem
    return [
        replace(question, group=group, id=f"{group}-{question.id}")
        for question in read_questions(path, prover_question)
    ]
