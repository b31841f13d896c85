"""Rail2Country: trains whose wagons spell a flag, by colour words or by things of a colour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

from saesteer.config.answers import AnswerConfig
from saesteer.errors import TaskError
from saesteer.evals.answer_rows import Answered, answer_row
from saesteer.evals.answer_task import READERS, AnswerReader, AnswerTask, Tick, fit_each
from saesteer.evals.prefill import read_texts, token_positions
from saesteer.evals.questions import Question
from saesteer.evals.train_problems import (
    HUB,
    STYLES,
    Style,
    Train,
    generate_trains,
    published_trains,
    read_trains,
)
from saesteer.evals.train_reader import FAINT, LabelledTrain, fit_train_reader
from saesteer.evals.train_words import FLAGS
from saesteer.models import Model, Site, load_model
from saesteer.saes import SAE

N_GENERATED = 150
"""Generated trains of each kind where no file is given: ten a country."""
FIT: Mapping[Style, int] = {"meta": 1000, "mono": 90}
"""Trains that readers are fitted on; most things for fitting come once or twice."""
BATCH = 16
N_SAMPLE = 100
"""Trains whose activations say how often a random SAE's features should fire."""


@final
@dataclass(frozen=True)
class TrainTask(AnswerTask):
    """Everything is fitted on generated trains, with other things and in other words."""

    config: AnswerConfig
    kind = "rail2country"

    how = "The wagons' colours, in order, are a country's flag. " + " ".join(
        f"{', '.join(flag)}: {country}." for country, flag in FLAGS.items()
    )
    notes = (
        "Colours are read from activations; only where sentences end comes from the text. Things "
        "and wordings of the problems occur in no text that was fitted on. Only the prompted "
        "baseline is told the flags in words, the readers have them as rules.",
        "Shuffled positions lose the wagons' order but not which colours occur, and so leave more "
        "than one right answer in fifteen. The main layer and how a colour's place is told were "
        "chosen on things for tests, of generated trains; the layers beside it and how colours are "
        "told, on things for fitting that were left out in turn. Wordings for fitting "
        "were changed once after a test run.",
    )

    @property
    def n_steps(self) -> int:
        """One for every batch, one for each reader."""
        return -(-sum(FIT.values()) // BATCH) + len(READERS)

    def questions(self) -> list[Question]:
        """The file's trains, the published ones where the hub is in reach, or generated ones.

        Raises:
            TaskError: a file that can't be read, or published ones asked for and out of reach.
        """
        task = self.config.task
        if task.test is not None:
            return read_trains(task.test)[: task.n_test]
        found = None if task.source == "generated" else published_trains(task.n_test)
        if found is None and task.source == "hub":
            raise TaskError(f"{HUB} is out of reach; set task.source=generated or give task.test.")
        n, seed = task.n_test or N_GENERATED, task.seed
        return found or [
            train.question()
            for style in STYLES
            for train in generate_trains(n, style, "test", seed)
        ]

    def practice(self, words: tuple[str, ...], n: int) -> list[Question]:
        """Trains for fitting, half of them of either kind."""
        trains = [
            train
            for pair in zip(
                generate_trains(n, "mono", "fit", self.config.task.seed + 1),
                generate_trains(n, "meta", "fit", self.config.task.seed + 1),
                strict=True,
            )
            for train in pair
        ]
        assert words == trains[0].question().words, "all trains have the same options"
        return [train.question() for train in trains[:n]]

    def fit(self, model: Model, sae: SAE, tick: Tick) -> Mapping[str, AnswerReader]:  # noqa: ARG002
        """A reader each from the SAEs' latents, random SAEs' and the activations themselves."""
        config, seed = self.config, self.config.task.seed
        saes = tuple(one.fainter(FAINT) for one in (sae, *self.beside))
        sites = [sae.site for sae in saes]
        reading = load_model(config.model, device=config.device, dtype=config.task.fit_dtype)
        trains = [
            train
            for style, n in FIT.items()
            for train in generate_trains(n, style, "fit", seed, flags=False)
        ]
        read: list[LabelledTrain] = []
        for batch in labelled_trains(reading, sites, trains):
            read += batch
            tick(f"read {len(read)} of {len(trains)} trains")
        sample = (train.resid for train in read[:N_SAMPLE])
        fit = partial(fit_train_reader, read, sites, seed=seed)
        return fit_each(fit, saes, sample, tick, seed)

    def row(
        self, name: str, family: str, found: Sequence[Answered], *, reads: bool
    ) -> dict[str, Any]:
        """How often the word was right, by kind of train."""
        return answer_row(self.kind, name, family, found, reads=reads)

    def control_rows(self, questions: Sequence[Question]) -> list[dict[str, Any]]:  # noqa: ARG002
        """None: a text of things gives no colour away."""
        return []


def labelled_trains(
    model: Model, sites: Sequence[Site], trains: Sequence[Train]
) -> Iterator[list[LabelledTrain]]:
    """Activations of trains at some sites, with where their colours are told."""
    for start in range(0, len(trains), BATCH):
        chosen = trains[start : start + BATCH]
        read = read_texts(model, [train.text for train in chosen], *sites)
        yield [
            LabelledTrain(
                resid,
                tuple(token_positions(model, train.text, train.told)),
                train.colours,
            )
            for train, resid in zip(chosen, read, strict=True)
        ]
