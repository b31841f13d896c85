"""What a reader of words alone gets: the answer that the published problems give away.

In them exactly one sentence with the asked property has a subject that is some other sentence's
object; the other is a distractor. No chain is followed. A comparison shows this row because a
high score on such problems is no proof of reasoning where it scores high too.
"""

from __future__ import annotations

import re

from saesteer.evals.questions import Question

_WORD = re.compile(r"[A-Za-z]+")
_SMALL = {"each", "every", "is", "are", "a", "an", "not"}


def lexical_shortcut(question: Question) -> str | None:
    """The answer by the shortcut; None where it finds no sentence to go by."""
    *given, asked = (_read(question.prompt[a:b]) for a, b in question.sentences())
    objects = {object_ for _, object_, _ in given}
    for subject, object_, positive in given:
        if object_ == asked[1] and subject in objects:
            return question.words[0 if positive == asked[2] else 1]
    return None


def _read(sentence: str) -> tuple[str, str, bool]:
    words = [word.lower() for word in _WORD.findall(sentence)]
    names = [_stem(word) for word in words if word not in _SMALL] or [sentence]
    return names[0], names[-1], "not" not in words


def _stem(word: str) -> str:
    for ending in ("uses", "xes", "ses", "shes", "ches"):
        if word.endswith(ending):
            return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("us", "ss")) else word
