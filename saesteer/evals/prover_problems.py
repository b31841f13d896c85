"""Problems in ProverQA's format, generated, with answers that exact solving confirms.

Facts and rules lead in 1 to 4 steps to a literal about one person; asked is that literal or its
opposite. A third of the problems lack a sentence that the answer needs, or ask of something else:
there the answer is "Uncertain". Other people's facts and rules, and rules whose conditions are not
met, are mixed in. Every answer is what all worlds over the problem's predicates say.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, final

from saesteer.evals.logic_conclude import NO, OPEN, YES
from saesteer.evals.prover_claims import Claim, Formula, Name, Op, Signed, entailed
from saesteer.evals.prover_text import Known, Sentence, write
from saesteer.evals.prover_words import Use, draw_people, draw_predicates
from saesteer.evals.questions import Question, question_of

Answer = Literal["True", "False", "Uncertain"]
ANSWERS: tuple[Answer, ...] = ("True", "False", "Uncertain")
ASK = "Based on the above information, is the following statement true, false, or uncertain?"
_ANSWER_OF: dict[str | None, Answer] = {YES: "True", NO: "False", OPEN: "Uncertain"}
_OPS: tuple[Op, ...] = ("all", "any", "one_of")


@final
@dataclass(frozen=True)
class ProverProblem:
    """Sentences, the one in question, its answer, and in how many steps one gets there."""

    id: str
    sentences: tuple[Sentence, ...]
    asked: Sentence
    answer: Answer
    steps: int

    def to_dict(self) -> dict[str, Any]:
        """In the published format, and beside it how many steps there are."""
        return {
            "id": self.id,
            "context": " ".join(sentence.text for sentence in self.sentences),
            "question": f"{ASK} {self.asked.text}",
            "options": [f"{x}) {y}" for x, y in zip("ABC", ANSWERS, strict=True)],
            "answer": "ABC"[ANSWERS.index(self.answer)],
            "hops": self.steps,
        }


@final
@dataclass
class _Draft:
    """What is claimed so far; `last` is the literal that follows from it."""

    rng: random.Random
    person: str
    spare: list[str]
    last: Signed
    claims: list[Claim] = field(default_factory=list)

    def fact(self, part: Signed) -> None:
        """Claim a literal."""
        self.claims.append(Claim(self.person, Formula("all", (part,))))

    def rule(self, result: Formula, condition: Formula | None) -> None:
        """Claim a formula of the person or, with a condition, maybe of everyone."""
        general = condition is not None and self.rng.random() < 0.3
        self.claims.append(Claim(None if general else self.person, result, condition))

    def new(self, positive: float = 0.85) -> Signed:
        """A literal of a predicate that was not used."""
        return Signed(self.spare.pop(), self.rng.random() < positive)


def generate_prover_problems(
    n: int, use: Use = "fit", *, steps: Sequence[int] = (1, 2, 3, 4), seed: int = 0
) -> list[ProverProblem]:
    """`n` problems, steps and answers in turn.

    Args:
        use: what the names and words are for; those for another use never occur.
    """
    rng = random.Random(seed)
    made: list[ProverProblem] = []
    while len(made) < n:
        wanted = ANSWERS[len(made) % 3]
        n_steps = steps[len(made) // 3 % len(steps)]
        problem = _problem(rng, f"{use}-{seed}-{len(made)}", n_steps, wanted, use)
        if problem is not None:
            made.append(problem)
    return made


def prover_question(row: Any, where: str = "problem") -> Question:
    """One problem of a file or of `to_dict`; the context may be empty.

    Raises:
        TaskError: a part is missing or of the wrong kind.
    """
    return question_of(row, where, bare=True)


def _problem(
    rng: random.Random, name: str, n_steps: int, wanted: Answer, use: Use
) -> ProverProblem | None:
    """One draw; None where it does not have the wanted answer."""
    predicates = {one.key: one for one in draw_predicates(rng, 4 * n_steps + 8, use)}
    person, *others = draw_people(rng, rng.randint(2, 4), use)
    draft = _chain(rng, person, list(predicates), n_steps)
    goal = draft.last
    if wanted == "Uncertain":
        goal = _unsettle(draft)
    elif (wanted == "True") != (rng.random() < 0.5):
        goal = goal.opposite
    asked = Claim(person, Formula("all", (goal,)))
    claims = draft.claims + _irrelevant(draft, goal) + _of_others(draft, others)
    if wanted != _ANSWER_OF.get(entailed(claims, asked)):
        asked = Claim(person, Formula("all", (goal.opposite,)))
    if wanted != _ANSWER_OF.get(entailed(claims, asked)):
        return None
    claims = _merged(rng, claims)
    rng.shuffle(claims)
    pronouns = {one: rng.choice(("he", "she")) for one in (person, *others)}
    said = [_said(rng, claim, predicates, pronouns) for claim in dict.fromkeys(claims)]
    question = _said(rng, asked, predicates, pronouns)
    return ProverProblem(name, tuple(said), question, wanted, n_steps)


def _merged(rng: random.Random, claims: Sequence[Claim]) -> list[Claim]:
    """Now and then two facts of one person as one sentence."""
    made = list(claims)
    facts = [c for c in made if c.condition is None and len(c.result.parts) == 1]
    for one, two in pairwise(facts):
        mine = one.person == two.person and one in made and two in made
        if mine and one.result.parts[0].name != two.result.parts[0].name and rng.random() < 0.12:
            made.remove(one)
            made.remove(two)
            parts = (one.result.parts[0], two.result.parts[0])
            made.append(Claim(one.person, Formula("all", parts)))
    return made


def _said(
    rng: random.Random, claim: Claim, predicates: Known, pronouns: dict[str, str]
) -> Sentence:
    return write(rng, claim, predicates, pronouns.get(str(claim.person), "they"))


def _chain(rng: random.Random, person: str, spare: list[str], n_steps: int) -> _Draft:
    """Facts and rules from which `last` follows in so many steps."""
    first = Signed(spare.pop(), rng.random() < 0.75)
    draft = _Draft(rng, person, spare, first)
    draft.fact(first)
    for _ in range(n_steps):
        rng.choice(_STEPS if draft.last.positive else _AFTER_NO)(draft)
    return draft


def _plainly(draft: _Draft) -> None:
    found = draft.new()
    draft.rule(Formula("all", (found,)), Formula("all", (draft.last,)))
    draft.last = found


def _with_another(draft: _Draft) -> None:
    """The condition joins two literals, in a way that what is known of them meets."""
    op, other, found = draft.rng.choice(_OPS), draft.new(1.0), draft.new()
    if op == "all":
        draft.fact(other)
    elif op == "one_of" or draft.rng.random() < 0.4:
        draft.fact(other.opposite)
    parts = _either_way(draft, draft.last, other)
    draft.rule(Formula("all", (found,)), Formula(op, parts))
    draft.last = found


def _choice(draft: _Draft) -> None:
    """Exactly one of two, of which one is known; under a condition or without."""
    found = draft.new(1.0)
    condition = _maybe_condition(draft)
    result = Formula("one_of", _either_way(draft, replace(draft.last, positive=True), found))
    draft.rule(result, condition)
    draft.last = replace(found, positive=not draft.last.positive)


def _remaining(draft: _Draft) -> None:
    """One of two at least, of which one is known to be false."""
    found, condition = draft.new(1.0), _maybe_condition(draft)
    parts = _either_way(draft, draft.last.opposite, found)
    draft.rule(Formula("any", parts), condition)
    draft.last = found


def _several(draft: _Draft) -> None:
    """The condition leads to two, one, or one at least, of two."""
    op, other, found = draft.rng.choice(_OPS), draft.new(1.0), draft.new(1.0)
    if op == "all" and draft.rng.random() < 0.3:
        other, found = other.opposite, found.opposite
    parts = _either_way(draft, other, found)
    draft.rule(Formula(op, parts), Formula("all", (draft.last,)))
    if op == "any":
        draft.fact(other.opposite)
    elif op == "one_of":
        other = replace(other, positive=draft.rng.random() < 0.5)
        draft.fact(other)
        found = replace(found, positive=not other.positive)
    draft.last = found


_STEPS = (_plainly, _with_another, _with_another, _choice, _choice, _several)
_AFTER_NO = (_plainly, _choice, _remaining, _remaining)


def _maybe_condition(draft: _Draft) -> Formula | None:
    if draft.rng.random() < 0.5:
        return None
    other = draft.new(1.0)
    draft.fact(other)
    return Formula("all", (other,))


def _either_way(draft: _Draft, one: Signed, two: Signed) -> tuple[Signed, Signed]:
    return (one, two) if draft.rng.random() < 0.5 else (two, one)


def _unsettle(draft: _Draft) -> Signed:
    """Drop a claim, or ask of what nothing settles."""
    kind = draft.rng.random()
    if kind < 0.6:
        draft.claims.remove(draft.rng.choice(draft.claims))
        return draft.last
    if kind < 0.8:
        asked = draft.new()
        draft.rule(Formula("all", (draft.last,)), Formula("all", (asked,)))
        return asked
    return draft.new(0.5)


def _irrelevant(draft: _Draft, goal: Signed) -> list[Claim]:
    """Rules of the person whose conditions nothing meets, some of which lead to the goal."""
    rng, made = draft.rng, list[Claim]()
    for _ in range(rng.randint(0, 2)):
        if len(draft.spare) < 3:
            break
        op = rng.choice(_OPS)
        parts = (draft.new(1.0), draft.new(1.0)) if rng.random() < 0.6 else (draft.new(1.0),)
        condition = Formula(op if len(parts) > 1 else "all", parts)
        used = [name for claim in draft.claims for name in claim.names]
        name: Name = rng.choice([goal.name, goal.name, *used])
        result = Formula("all", (Signed(name, rng.random() < 0.8),))
        if rng.random() < 0.3:
            other = Signed(draft.spare.pop())
            parts = _either_way(draft, Signed(name), other)
            result = Formula(rng.choice(_OPS), parts)
        person = None if rng.random() < 0.2 else draft.person
        made.append(Claim(person, result, condition))
    return made


def _of_others(draft: _Draft, others: Sequence[str]) -> list[Claim]:
    """Copies of claims about other people, some of them the other way round."""
    rng, made = draft.rng, list[Claim]()
    own = [claim for claim in draft.claims if claim.person is not None]
    for claim in rng.sample(own, min(len(own), rng.randint(0, 4))):
        copy = replace(claim, person=rng.choice(others))
        if claim.condition is None and len(claim.result.parts) == 1 and rng.random() < 0.3:
            copy = replace(copy, result=Formula("all", (claim.result.parts[0].opposite,)))
        made.append(copy)
    return made
