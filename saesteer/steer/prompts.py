"""Edits of the prompt itself: text in front of it, or a system message.

They act in `Model.generate`, before tokens are made. A bare `hf.generate` receives ids and can't
be edited this way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from saesteer.errors import PlanError
from saesteer.models import Prompt


@final
@dataclass(frozen=True)
class PromptEdit:
    """What is put in front of each prompt.

    Attributes:
        prefix: in front of a plain text as it stands, or of a chat's last user message.
        system: a chat's system message, in front of the one it has; plain text has no place for it.
    """

    prefix: str = ""
    system: str = ""

    def __post_init__(self) -> None:
        """Check that there is something to do.

        Raises:
            PlanError: both are empty.
        """
        if not (self.prefix or self.system):
            raise PlanError("PromptEdit: give a prefix or a system message.")

    def apply(self, prompt: Prompt) -> Prompt:
        """The edited prompt, a text or a chat as before; the given one is left as it is.

        Raises:
            PlanError: a system message for plain text, or a prefix for a chat without a user.
        """
        if isinstance(prompt, str):
            if self.system:
                raise PlanError(
                    "a system message needs a chat; pass [{'role': 'user', 'content': ...}], "
                    "or use PromptEdit(prefix=...)."
                )
            return self.prefix + prompt
        messages = [dict(message) for message in prompt]
        return self._with_system(self._with_prefix(messages))

    def _with_prefix(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        if not self.prefix:
            return messages
        for message in reversed(messages):
            if message.get("role") == "user":
                message["content"] = self.prefix + message["content"]
                return messages
        raise PlanError("a prefix goes in front of a user message, and this chat has none.")

    def _with_system(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        if not self.system:
            return messages
        head: Mapping[str, str] = messages[0] if messages else {}
        if head.get("role") != "system":
            return [{"role": "system", "content": self.system}, *messages]
        joined = f"{self.system}\n\n{head['content']}"
        return [{"role": "system", "content": joined}, *messages[1:]]
