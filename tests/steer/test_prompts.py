"""Prompt edits keep the kind of prompt and leave the given one alone."""

from __future__ import annotations

import pytest

from saesteer.errors import PlanError
from saesteer.steer import PromptEdit

USER = {"role": "user", "content": "hello"}


def test_text() -> None:
    assert PromptEdit(prefix="Be kind. ").apply("hello") == "Be kind. hello"
    with pytest.raises(PlanError, match="needs a chat"):
        PromptEdit(system="Be kind.").apply("hello")


def test_chat() -> None:
    chat = [USER]
    edited = PromptEdit(prefix="Be kind. ", system="You are kind.").apply(chat)
    assert edited == [
        {"role": "system", "content": "You are kind."},
        {"role": "user", "content": "Be kind. hello"},
    ]
    assert chat == [{"role": "user", "content": "hello"}]


def test_a_system_message_goes_in_front_of_the_one_there_is() -> None:
    chat = [{"role": "system", "content": "Old."}, USER]
    assert PromptEdit(system="New.").apply(chat)[0]["content"] == "New.\n\nOld."


def test_the_last_user_message_gets_the_prefix() -> None:
    chat = [USER, {"role": "assistant", "content": "hi"}, USER]
    edited = PromptEdit(prefix="> ").apply(chat)
    assert [m["content"] for m in edited] == ["hello", "hi", "> hello"]
    with pytest.raises(PlanError, match="has none"):
        PromptEdit(prefix="> ").apply([{"role": "assistant", "content": "hi"}])


def test_an_edit_of_nothing_is_refused() -> None:
    with pytest.raises(PlanError, match="prefix or a system"):
        PromptEdit()
