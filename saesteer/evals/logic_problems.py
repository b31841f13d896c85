"""Problems of fictional kinds in PrOntoQA's format, generated, with what the published ones lack.

A person is of a kind, kinds are of kinds, a kind has a property: does the person? The published
problems are all of five hops, and the sentence whose subject is another one's object gives them
away. These have 1 to 5 hops, distractor chains that start at another person and end in the same
property, decoys that contradict the answer off the path, sentences in any order, and a twin of
each in which one link is deleted, so that the answer is "Unknown".
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from saesteer.evals.logic_words import Style, Words, draw_words, plural, with_article
from saesteer.files import write_text

Answer = Literal["True", "False", "Unknown"]
ANSWERS: tuple[Answer, ...] = ("True", "False", "Unknown")


@dataclass(frozen=True)
class Statement:
    """One sentence and what it says; `subject` and `object` are stems, spans count characters."""

    text: str
    subject: str
    object: str
    positive: bool
    subject_span: tuple[int, int]
    object_span: tuple[int, int]


@dataclass(frozen=True)
class Problem:
    """Statements, one statement in question, and its answer.

    Attributes:
        proof: the statements that the answer rests on, in order; for a twin those that remain.
        twin_of: the id of the problem that this one is, less a link.
    """

    id: str
    statements: tuple[Statement, ...]
    question: Statement
    answer: Answer
    hops: int
    proof: tuple[Statement, ...]
    twin_of: str | None = None

    @property
    def context(self) -> str:
        """The statements as text."""
        return " ".join(statement.text for statement in self.statements)

    def to_dict(self) -> dict[str, Any]:
        """In the published format, and beside it what is new: hops and twin_of."""
        ask = "Is the following statement true, false or unknown?"
        letters = zip("ABC", ANSWERS, strict=True)
        return {
            "id": self.id,
            "context": self.context,
            "question": f"{ask} {self.question.text}",
            "options": [f"{letter}) {word}" for letter, word in letters],
            "answer": "ABC"[ANSWERS.index(self.answer)],
            "explanation": [statement.text for statement in self.proof],
            "hops": self.hops,
            "twin_of": self.twin_of,
        }


@dataclass(frozen=True)
class ProblemShape:
    """What every generated problem is made of.

    Attributes:
        n_kinds: kinds in a problem, those of distractor chains included.
        n_distractors: chains that start at another person and end in the asked property.
        n_decoys: kinds off the path that contradict the answer.
        shuffled: sentences in any order, instead of along the chain.
    """

    n_kinds: int = 10
    n_distractors: int = 1
    n_decoys: int = 2
    shuffled: bool = True


def generate_problems(
    n: int,
    *,
    hops: Sequence[int] = (1, 2, 3, 4, 5),
    style: Style = "invented",
    shape: ProblemShape | None = None,
    seed: int = 0,
    twins: bool = True,
    new: bool = False,
) -> list[Problem]:
    """`n` problems, hops in turn, each followed by its twin if `twins`; half of them are false.

    Args:
        new: of names that are kept for tests, and never occur without it.
    """
    rng, shape = random.Random(seed), shape or ProblemShape()
    made: list[Problem] = []
    for index in range(n):
        name, n_hops = f"{style}-{seed}-{index}", hops[index % len(hops)]
        n_kinds = max(shape.n_kinds, n_hops + 2)
        words = draw_words(rng, style, n_kinds, shape.n_kinds, new=new)
        problem = _problem(name, n_hops, words, shape, rng)
        made += [problem, _twin(problem, rng)] if twins else [problem]
    return made


def save_problems(problems: Sequence[Problem], path: str | Path) -> None:
    """Write problems as JSON in the published format."""
    rows = [problem.to_dict() for problem in problems]
    write_text(Path(path), json.dumps(rows, indent=1) + "\n")


def _problem(
    name: str, hops: int, words: Words, shape: ProblemShape, rng: random.Random
) -> Problem:
    asked, positive, truthful = words.properties[0], rng.random() < 0.5, rng.random() < 0.5
    path, spare = words.kinds[:hops], list(words.kinds[hops:])
    proof = [_fact(words.people[0], path[0])]
    proof += [_link(rng, one, two) for one, two in pairwise(path)]
    proof.append(_property(rng, path[-1], asked, positive=positive))
    others = _off_the_path(rng, words, spare, shape, positive=positive)
    others += [
        _property(rng, kind, word, positive=rng.random() < 0.6)
        for kind, word in zip(path[:-1], words.properties[1:], strict=False)
    ]
    statements = [*proof[1:], *others, proof[0]]
    if shape.shuffled:
        rng.shuffle(statements)
    question = _ask(words.people[0], asked, positive=positive == truthful)
    answer: Answer = "True" if truthful else "False"
    return Problem(name, tuple(statements), question, answer, hops, tuple(proof))


def _off_the_path(
    rng: random.Random, words: Words, spare: list[str], shape: ProblemShape, *, positive: bool
) -> list[Statement]:
    """Distractor chains and decoys over kinds that the path does not reach."""
    asked, made = words.properties[0], list[Statement]()
    cut = max(1, len(spare) - shape.n_decoys)
    chain = spare[:cut] if shape.n_distractors else []
    if chain:
        made.append(_fact(words.people[1], chain[0]))
        made += [_link(rng, one, two) for one, two in pairwise(chain)]
        made.append(_property(rng, chain[-1], asked, positive=not positive))
    for kind in spare[cut:] if chain else spare[: shape.n_decoys]:
        made.append(_property(rng, kind, asked, positive=not positive))
        made.append(_link(rng, kind, rng.choice(words.kinds[:1])))
    return made


def _twin(problem: Problem, rng: random.Random) -> Problem:
    gone = rng.choice(problem.proof)
    return replace(
        problem,
        id=f"{problem.id}-twin",
        statements=tuple(s for s in problem.statements if s is not gone),
        answer="Unknown",
        proof=tuple(s for s in problem.proof if s is not gone),
        twin_of=problem.id,
    )


def _fact(person: str, kind: str) -> Statement:
    return _statement(person, person, "is " + with_article(kind)[: -len(kind)], kind, kind)


def _ask(person: str, word: str, *, positive: bool) -> Statement:
    return _statement(person, person, "is " if positive else "is not ", word, word, positive)


def _link(rng: random.Random, one: str, two: str) -> Statement:
    if rng.random() < 0.5:
        return _statement(plural(one).capitalize(), one, "are ", plural(two), two)
    before = with_article(two)[: -len(two)]
    return _statement(one, one, f"is {before}", two, two, opening=rng.choice(("Each ", "Every ")))


def _property(rng: random.Random, kind: str, word: str, *, positive: bool) -> Statement:
    no = "" if positive else "not "
    if rng.random() < 0.5:
        return _statement(plural(kind).capitalize(), kind, f"are {no}", word, word, positive)
    opening = rng.choice(("Each ", "Every "))
    return _statement(kind, kind, f"is {no}", word, word, positive, opening)


def _statement(
    shown: str,
    subject: str,
    middle: str,
    shown_object: str,
    object_: str,
    positive: bool = True,
    opening: str = "",
) -> Statement:
    start, end = len(opening), len(opening) + len(shown)
    begin = end + 1 + len(middle)
    text = f"{opening}{shown} {middle}{shown_object}."
    return Statement(
        text, subject, object_, positive, (start, end), (begin, begin + len(shown_object))
    )
