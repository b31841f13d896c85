"""Where an edit acts, as frozen values; every one of them counts in positions that don't move.

`prompt` and `generated` share one position: the last prompt token, whose logits choose the first
generated token. Padding and rows that have finished are never chosen; BOS and special tokens only
when `special` is set, or when they are the very position that was asked for.
"""

from __future__ import annotations

import builtins
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, SupportsIndex, final

import torch

from saesteer.axes import TokenMask
from saesteer.errors import PlanError
from saesteer.steer.chats import ROLES, Reader
from saesteer.steer.frame import Frame
from saesteer.steer.spans import found_mask, span_mask, tokens_of


def is_count(value: object, least: int) -> bool:
    """Whether it is a whole number of `least` or more that a tensor of positions can be held to."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        return False
    return least <= int(value) < 2**31


@dataclass(frozen=True)
class Where(ABC):
    """A choice of positions.

    Attributes:
        takes_answers: it takes in every token of an answer that is not special.
    """

    takes_answers: ClassVar[bool] = False
    special: bool = False

    def mask(self, frame: Frame) -> TokenMask:
        """True at the chosen positions of this pass, `[batch, pos]`; worked out once per pass.

        Raises:
            PlanError: the choice depends on where the prompt ends and nobody said.
        """
        known = frame.memo.get(self)
        if known is None:
            known = frame.memo[self] = self.chosen(frame)
        return known

    def chosen(self, frame: Frame) -> TokenMask:
        """The same, worked out anew; errors as for `mask`."""
        chosen, live = self._choose(frame), frame.live
        return chosen if chosen is live else chosen & live

    @abstractmethod
    def _choose(self, frame: Frame) -> TokenMask:
        """The choice before padding and finished rows are taken out."""

    def _plain(self, frame: Frame, chosen: TokenMask) -> TokenMask:
        """`chosen` without special tokens, unless they were asked for."""
        return chosen if self.special or frame.special is None else chosen > frame.special


@final
@dataclass(frozen=True)
class PromptTokens(Where):
    """The prompt, its last token included."""

    def _choose(self, frame: Frame) -> TokenMask:
        return self._plain(frame, frame.logical < frame.need_prompt_lengths("prompt()"))


@final
@dataclass(frozen=True)
class Generated(Where):
    """From the last prompt token on, which is in even if it is special (chat templates)."""

    takes_answers = True

    def _choose(self, frame: Frame) -> TokenMask:
        if frame.answered:
            return self._plain(frame, frame.valid)
        start = frame.need_prompt_lengths("generated()") - 1
        return self._plain(frame, frame.logical > start) | (frame.logical == start)


@final
@dataclass(frozen=True)
class Last(Where):
    """The last prompt token, special or not."""

    def _choose(self, frame: Frame) -> TokenMask:
        return frame.logical == frame.need_prompt_lengths("last()") - 1


@final
@dataclass(frozen=True)
class Everywhere(Where):
    """Every token of prompt and answer."""

    takes_answers = True

    def _choose(self, frame: Frame) -> TokenMask:
        return self._plain(frame, frame.valid)


@final
@dataclass(frozen=True)
class First(Where):
    """Those of the row's first n tokens that are not special."""

    n: int = 1

    def __post_init__(self) -> None:
        """Check the number.

        Raises:
            PlanError: it is no whole number of 1 or more.
        """
        if not is_count(self.n, 1):
            raise PlanError(f"first({self.n}) chooses nothing; n must be a number of 1 or more.")

    def _choose(self, frame: Frame) -> TokenMask:
        return self._plain(frame, frame.logical < self.n)


@final
@dataclass(frozen=True)
class Positions(Where):
    """Positions counted from the row's first real token, special ones included."""

    indices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check the positions.

        Raises:
            PlanError: none, or a negative one.
        """
        if not self.indices or not builtins.all(is_count(i, 0) for i in self.indices):
            raise PlanError(
                f"positions({list(self.indices)}): give indices of 0 or more; "
                "for the prompt's end use last() or generated()."
            )

    def _choose(self, frame: Frame) -> TokenMask:
        chosen = torch.zeros_like(frame.valid)
        for index in self.indices:
            chosen = chosen | (frame.logical == index)
        return chosen


@final
@dataclass(frozen=True)
class Spans(Where):
    """The prompt's tokens that spell a text, wherever it occurs; none if it doesn't."""

    text: str = ""
    nth: int | None = None

    def __post_init__(self) -> None:
        """Check what is looked for.

        Raises:
            PlanError: no text, or `nth` below 0.
        """
        text = isinstance(self.text, str) and self.text
        if not text or (self.nth is not None and not is_count(self.nth, 0)):
            raise PlanError(
                f"spans({self.text!r}, {self.nth}): give the text to look for, and nth of 0 or "
                "more."
            )

    def _choose(self, frame: Frame) -> TokenMask:
        return self._plain(frame, span_mask(frame, self.text, self.nth))


@final
@dataclass(frozen=True)
class ChatRole(Where):
    """The prompt's messages of one role, without what the template puts around them."""

    role: str = "user"

    def __post_init__(self) -> None:
        """Check the role.

        Raises:
            PlanError: another one.
        """
        if self.role not in ROLES:
            raise PlanError(f"chat({self.role!r}): expected one of {', '.join(ROLES)}.")

    def _choose(self, frame: Frame) -> TokenMask:
        reader = frame.decode
        if not isinstance(reader, Reader):
            raise PlanError("chat regions need a tokenizer; load the model with one.")
        if self.role not in reader.roles:
            raise PlanError(
                f"chat({self.role!r}): this chat template has no such role; "
                f"it has {', '.join(reader.roles)}."
            )

        def find(ids: Sequence[int]) -> list[tuple[int, int]]:
            return tokens_of(ids, reader.regions(ids, self.role), reader)

        who = f"chat({self.role!r})"
        return self._plain(frame, found_mask(frame, ("chat", self.role), who, find))


def prompt(*, special: bool = False) -> Where:
    """The prompt's tokens."""
    return PromptTokens(special)


def generated(*, special: bool = False) -> Where:
    """Every position whose logits choose a generated token: from the last prompt token on."""
    return Generated(special)


def last() -> Where:
    """The last prompt token."""
    return Last()


def all(*, special: bool = False) -> Where:
    """Every token of prompt and answer."""
    return Everywhere(special)


def first(n: int, *, special: bool = False) -> Where:
    """The first n tokens of each row, counted with BOS but without padding.

    Raises:
        PlanError: n is less than 1.
    """
    return First(special, n)


def positions(indices: SupportsIndex | Iterable[SupportsIndex]) -> Where:
    """One chosen position or several, counted from 0 at each row's first real token.

    Raises:
        PlanError: none given, a negative one, or no whole numbers.
    """
    chosen: Any = [indices] if isinstance(indices, int) else indices
    try:
        return Positions(False, tuple(map(operator.index, chosen)))
    except TypeError:
        raise PlanError(f"positions({indices!r}): give whole numbers, such as [0, 3].") from None


def spans(text: str, nth: int | None = None, *, special: bool = False) -> Where:
    """The tokens of the prompt that spell `text`, at each place where it occurs.

    Args:
        nth: only one of these places, from 0; nothing in a row that has fewer.

    Raises:
        PlanError: the text is empty, or `nth` below 0.
    """
    return Spans(special, text, nth)


def chat(role: str, *, special: bool = False) -> Where:
    """The messages of one role ("user", "system" or "assistant") in a prompt that is a chat.

    Raises:
        PlanError: another role.
    """
    return ChatRole(special, role)
