"""Reasoning problems as files hold them: a context, a question, options and the right letter.

The format is that of the published PrOntoQA and ProverQA files. The reader of a problem may use
where its sentences end; everything else that it learns has to come from activations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from saesteer.errors import TaskError
from saesteer.files import json_value

_SENTENCE = re.compile(r"(?=[^.!?\s])(?:\b(?:Dr|Mr|Mrs|Ms|Prof)\.|[^.!?])+(?:[.!?]+|(?<=\w)$)")
"""Up to a full stop that does not belong to a title, or the last word of all."""
_OPTION = re.compile(r"\s*([A-Z])\)\s*(\S.*)")
LEAD = "Problem: "
"""Before the context of a file's problem, since a text's first token is read as nothing but its
first: a name that stood there was taken for another in half of the problems that were lost."""


@dataclass(frozen=True)
class Question:
    """One problem.

    Attributes:
        words: the answer words of the options, in order, such as ("True", "False").
        answer: the right one of them.
        hops: links from the asked subject to the asked property, None where the file doesn't tell.
        twin_of: for a problem with a deleted link, the one it was made from.
        group: what its row is told apart by, beside hops.
        spans: what a reader reads of `prompt`, in characters; its sentences for None.
        lead: what `prompt` begins with.
    """

    id: str
    context: str
    question: str
    words: tuple[str, ...]
    answer: str
    hops: int | None = None
    twin_of: str | None = None
    group: str = ""
    spans: tuple[tuple[int, int], ...] | None = None
    lead: str = ""

    @property
    def prompt(self) -> str:
        """What the model is asked, answer words included; it ends where the answer begins."""
        *others, last = self.words
        listed = f"{', '.join(others)} or {last}" if others else last
        return f"{self.lead}{self.context}\n{self.question} Answer {listed}.\nAnswer:"

    def sentences(self) -> list[tuple[int, int]]:
        """Where each sentence of the context stands in `prompt`, then the one asked about.

        `spans` instead, where they are given.
        """
        if self.spans is not None:
            return list(self.spans)
        told = [match.span() for match in _SENTENCE.finditer(self.context)]
        asked = list(_SENTENCE.finditer(self.question))[-1].span()
        first, second = len(self.lead), len(self.lead) + len(self.context) + 1
        return [*((a + first, b + first) for a, b in told), (second + asked[0], second + asked[1])]


def read_questions(
    path: str | Path, read: Callable[[Any, str], Question] | None = None
) -> list[Question]:
    """The problems of a JSON file.

    Args:
        read: what makes a problem of its values and of where they stand; `question_of` if left out.

    Raises:
        TaskError: a file that can't be read, or a problem without one of its parts; which and why.
    """
    try:
        rows: Any = json_value(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise TaskError(f"problems {path} can't be read: {error}.") from error
    if not isinstance(rows, list) or not rows:
        raise TaskError(f"problems {path}: expected a list of at least one problem.")
    return [(read or question_of)(row, f"{path}, problem {n}") for n, row in enumerate(rows)]


def question_of(row: Any, where: str = "problem", *, bare: bool = False) -> Question:
    """One problem from its JSON values.

    Args:
        bare: whether it may lack a context.

    Raises:
        TaskError: a part is missing or of the wrong kind.
    """
    fields = cast("Mapping[str, Any]", row if isinstance(row, Mapping) else {})
    for key in ("context", "question", "answer"):
        given = fields.get(key)
        needed = key != "context" or not bare
        if not isinstance(given, str) or (needed and not given.strip()):
            raise TaskError(f"{where}: {key!r} is {fields.get(key)!r}; expected a text.")
    options = dict(_options(fields.get("options"), where))
    if fields["answer"] not in options:
        raise TaskError(
            f"{where}: answer {fields['answer']!r} is none of the options {', '.join(options)}."
        )
    if not _SENTENCE.search(fields["question"]):
        raise TaskError(f"{where}: the question {fields['question']!r} holds no sentence.")
    return Question(
        id=str(fields.get("id", where)),
        context=" ".join(fields["context"].split()),
        question=" ".join(fields["question"].split()),
        words=tuple(options.values()),
        answer=options[fields["answer"]],
        hops=_hops(fields),
        twin_of=fields.get("twin_of"),
        lead=LEAD,
    )


def _options(found: Any, where: str) -> Sequence[tuple[str, str]]:
    listed = found if isinstance(found, list) and found else ["A) True", "B) False"]
    matches = [_OPTION.fullmatch(str(option)) for option in listed]
    told = [(match[1], match[2].strip()) for match in matches if match]
    words = {word.casefold() for _, word in told}
    if not 2 <= len(listed) == len(words) <= 3 or told[0][1].casefold() in ("false", "no"):
        raise TaskError(
            f"{where}: options {found!r}; expected texts such as 'A) True', 'B) False' and maybe "
            "'C) Unknown', in this order."
        )
    return told


def _hops(fields: Mapping[str, Any]) -> int | None:
    """As the file says, or from a published explanation: every hop is a rule and a conclusion."""
    if isinstance(fields.get("hops"), int):
        return fields["hops"]
    steps = fields.get("explanation")
    return (len(steps) - 1) // 2 if isinstance(steps, list) and len(steps) > 2 else None
