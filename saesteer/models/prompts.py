"""What may be put to a model: texts and chats, one or several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from saesteer.errors import DataError

Chat = Sequence[Mapping[str, str]]
Prompt = str | Chat


def is_single(prompts: Prompt | Sequence[Prompt]) -> bool:
    """Whether this is one prompt (a str, or one chat) rather than a list of prompts."""
    if isinstance(prompts, str):
        return True
    return isinstance(prompts, Sequence) and bool(prompts) and isinstance(prompts[0], Mapping)


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or many, as a list.

    Raises:
        DataError: something else than texts and chats.
    """
    several = isinstance(prompts, Iterable) and not isinstance(prompts, (Mapping, bytes))
    found: list[Any] = [prompts] if is_single(prompts) or not several else list(prompts)
    for prompt in found:
        if not isinstance(prompt, str) and not _is_chat(prompt):
            raise DataError(
                f"{repr(prompt)[:60]} is no prompt: give a text, or a chat, which is a list of "
                "messages such as [{'role': 'user', 'content': 'Hi'}]."
            )
    return cast(list[Prompt], found)


def _is_chat(prompt: object) -> bool:
    """Whether it is messages; one that calls tools needs no content."""
    return (
        isinstance(prompt, Sequence)
        and len(prompt) > 0
        and all(
            isinstance(m, Mapping) and "role" in m and ("content" in m or "tool_calls" in m)
            for m in prompt
        )
    )
