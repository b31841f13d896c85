"""Which tokens of a chat belong to which role, read from what the tokenizer's own template writes.

The template is rendered once with marks for contents; what stands around a mark is how a message of
that role begins and ends. A message's own text is its region: what the template puts around it is
not. Text that imitates the template is taken for it, as the model takes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple, final

from saesteer.errors import PlanError

ROLES = ("system", "user", "assistant")
_MARKS = ("QXZA", "QXZB", "QXZC")


class Around(NamedTuple):
    """What a template writes before and after a message of one role."""

    before: str
    after: str


@final
class Reader:
    """Token ids to text, and to the messages in it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, ids: Sequence[int]) -> str:
        """Text of tokens as they stand, special ones and spaces included."""
        return str(self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    @cached_property
    def roles(self) -> dict[str, Around]:
        """How messages begin and end, by role; without those that the template refuses."""
        if not getattr(self._tokenizer, "chat_template", None):
            raise PlanError("chat regions need a chat template, and this tokenizer has none.")
        a, b, c = _MARKS
        turns = self._render(("user", a), ("assistant", b), ("user", c))
        user_after = turns[turns.index(c) + len(c) :]
        closed = self._render(("user", a), ("assistant", b))
        assistant_after = closed[closed.index(b) + len(b) :]
        to_assistant, to_user = _between(turns, a, b), _between(turns, b, c)
        found = {
            "user": Around(to_user.removeprefix(assistant_after), user_after),
            "assistant": Around(to_assistant.removeprefix(user_after), assistant_after),
        }
        try:
            opened = self._render(("system", a), ("user", b))
        except Exception:
            return found
        after = _between(opened, a, b).removesuffix(found["user"].before)
        return {**found, "system": Around(opened[: opened.index(a)], after)}

    def regions(self, ids: Sequence[int], role: str) -> list[tuple[int, int]]:
        """Half-open character ranges of a role's messages."""
        text, at, found = self(ids), 0, []
        while True:
            heads = [
                (text.find(around.before, at), -len(around.before), name)
                for name, around in self.roles.items()
            ]
            heads = [head for head in heads if head[0] >= 0]
            if not heads:
                return found
            begin, minus, name = min(heads)
            start, after = begin - minus, self.roles[name].after
            stop = text.find(after, start) if after else -1
            stop = len(text) if stop < 0 else stop
            if name == role and stop > start:
                found.append((start, stop))
            at = max(stop, start)

    def _render(self, *messages: tuple[str, str]) -> str:
        chat = [{"role": role, "content": content} for role, content in messages]
        return str(self._tokenizer.apply_chat_template(chat, tokenize=False))


def _between(text: str, left: str, right: str) -> str:
    return text[text.index(left) + len(left) : text.index(right)]
