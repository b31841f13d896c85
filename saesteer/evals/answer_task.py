"""What a kind of problems brings to a comparison of ways to answer: one seam for all kinds.

A task says what is asked, what may be learned from, how its problems are read and what its rows
count. Fitting, answering, baselines, steering and the page are the same for every kind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, TypeVar, final, runtime_checkable

import torch

from saesteer.config.answers import AnswerConfig
from saesteer.evals.answer_rows import Answered
from saesteer.evals.logic_reader import Activations, ReadText, Saes, random_saes
from saesteer.evals.questions import Question
from saesteer.models import Model, Site
from saesteer.rules.proof import Proof
from saesteer.saes import load_sae
from saesteer.saes.sae import SAE

AR = "activation-reasoning"
"""The reader that the rows are about; the others are what it is compared with."""
SHUFFLED = "shuffled"
READERS = (AR, "random-sae", "dense-probe")
Tick = Callable[[str], None]
Reader = TypeVar("Reader")


@final
@dataclass(frozen=True, eq=False)
class Verdict:
    """What a reader concluded: the answer word, None if none follows, with rules and proof."""

    word: str | None
    rules: str = ""
    proof: Proof | None = None


@runtime_checkable
class AnswerReader(Protocol):
    """Reads a problem from activations and concludes an answer."""

    def conclude(self, text: ReadText, question: Question) -> Verdict:
        """The answer to one problem; of the question only its id and its answer words count."""
        ...


class AnswerTask(ABC):
    """One kind of problems.

    Attributes:
        config: what was asked for.
        kind: its name in a config and in rows.
        how: what the prompted baseline is told, before one solved problem.
        notes: what a reader of the page has to know.
    """

    config: AnswerConfig
    kind: ClassVar[str]
    how: ClassVar[str]
    notes: ClassVar[tuple[str, ...]]

    @cached_property
    def beside(self) -> tuple[SAE, ...]:
        """The SAEs at other sites that its readers read beside the config's own."""
        return tuple(load_sae(name).to(device="cpu") for name in self.config.task.names or ())

    @property
    def other_sites(self) -> Sequence[Site]:
        """Theirs."""
        return [sae.site for sae in self.beside]

    @abstractmethod
    def questions(self) -> list[Question]:
        """The problems to answer, none of which anything is fitted on.

        Raises:
            TaskError: a file that can't be read.
        """

    @abstractmethod
    def practice(self, words: tuple[str, ...], n: int) -> list[Question]:
        """`n` other problems with answers, whose options are `words`, to learn saying them on."""

    @abstractmethod
    def fit(self, model: Model, sae: SAE, tick: Tick) -> Mapping[str, AnswerReader]:
        """Readers by name: those of `READERS`, and `SHUFFLED` where positions don't matter."""

    @property
    @abstractmethod
    def n_steps(self) -> int:
        """How often `fit` ticks, for the bar."""

    @abstractmethod
    def row(
        self, name: str, family: str, found: Sequence[Answered], *, reads: bool
    ) -> dict[str, Any]:
        """One method's row; `answer_row` makes the usual one."""

    @abstractmethod
    def control_rows(self, questions: Sequence[Question]) -> list[dict[str, Any]]:
        """Rows of what needs no model."""


def shuffled(text: ReadText, seed: int) -> ReadText:
    """The same activations at other positions: what is left when only their presence counts."""
    order = torch.randperm(len(text.resid[0]), generator=torch.Generator().manual_seed(seed))
    return replace(text, resid=tuple(rows[order] for rows in text.resid))


def with_words(question: Question, words: tuple[str, ...]) -> Question:
    """The same problem with other words for its options, in order."""
    return replace(question, words=words, answer=words[question.words.index(question.answer)])


def fit_each(
    fit: Callable[[Saes], Reader],
    saes: Saes,
    sample: Iterable[Sequence[Activations]],
    tick: Tick,
    seed: int = 0,
) -> dict[str, Reader]:
    """What a fit makes of the SAEs' latents, of random SAEs' and of the activations themselves.

    Args:
        sample: activations that say how often a random SAE's features fire, as for `random_saes`.
    """
    readers: dict[str, Reader] = {}
    spaces = (saes, random_saes(saes, sample, seed), ())
    for name, space in zip(READERS, spaces, strict=True):
        readers[name] = fit(space)
        tick(f"fit {name}")
    return readers
