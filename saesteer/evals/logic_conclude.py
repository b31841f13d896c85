"""From links to a verdict: each text's sentences become a rule book, and its closure the answer.

A link "subject -> object" is a rule: who is the one is the other. Facts about the asked subject are
links whose subject it is, so the asked subject's own atom is the one thing given. Negative links
derive `-n7`, an atom of its own; where a name is derived both ways, neither answer holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from saesteer.evals.logic_reader import Link
from saesteer.rules import RuleBook
from saesteer.rules.proof import Proof

YES, NO, OPEN = "yes", "no", "open"


@final
@dataclass(frozen=True, eq=False)
class Conclusion:
    """What follows: `yes`, `no` or `open`; the rules and, unless open, the proof."""

    verdict: str
    rules: str
    proof: Proof | None = None


def conclude(links: Sequence[Link | None]) -> Conclusion:
    """Whether the last link follows from the others, or its opposite does.

    An asked sentence that could not be read leaves everything open.
    """
    *given, asked = links
    if asked is None:
        return Conclusion(OPEN, "")
    known = [link for link in dict.fromkeys(given) if link is not None]
    goal, against = _atom(asked.object, asked.positive), _atom(asked.object, not asked.positive)
    lines = [f"{_atom(link.object, link.positive)} :- n{link.subject}." for link in known]
    lines += [f"{YES} :- {goal}, not {against}.", f"{NO} :- {against}, not {goal}."]
    lines.append(f"{OPEN} :- not {YES}, not {NO}.")
    rules = "\n".join(lines)
    book, facts = RuleBook.parse(rules), {f"n{asked.subject}"}
    holds = book.closure(facts)
    verdict = next(word for word in (YES, NO, OPEN) if word in holds)
    return Conclusion(verdict, rules, None if verdict == OPEN else book.prove(verdict, facts))


def answer_word(verdict: str, words: Sequence[str]) -> str | None:
    """The answer that a verdict means; None if it is open and no third answer is offered."""
    index = {YES: 0, NO: 1, OPEN: 2}[verdict]
    return words[index] if index < len(words) else None


def _atom(name: int, positive: bool) -> str:
    return f"n{name}" if positive else f"-n{name}"
