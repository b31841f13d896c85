"""Prompting edits prompts, gives its words, and touches no activation."""

from __future__ import annotations

import pytest

from saesteer.data.contrast import Contrast, builtin_contrasts
from saesteer.errors import PlanError
from saesteer.methods import Prompting
from saesteer.methods.prompting import INSTRUCTIONS
from saesteer.models import Model


def test_every_shipped_contrast_has_an_instruction() -> None:
    assert set(INSTRUCTIONS) == set(builtin_contrasts())


def test_words_come_from_the_user_the_contrast_or_its_examples(letters: Contrast) -> None:
    assert Prompting("be kind").words(letters) == "be kind"
    assert Prompting().words(Contrast.read("ocean")) == INSTRUCTIONS["ocean"]
    quoted = Prompting().words(letters)
    assert letters.split("train").positives[0].text in quoted
    assert letters.split("train").negatives[0].text not in quoted


def test_a_prefix_is_the_prompt_with_words_before_it(model: Model, letters: Contrast) -> None:
    plan = Prompting("be kind").fit(model, letters)
    expected = model.generate("be kind\n\nthe sea", max_new_tokens=6)
    with plan.on(model):
        assert model.generate("the sea", max_new_tokens=6) == expected
    assert model.generate("the sea", max_new_tokens=6) != expected
    assert plan.edits == ()


def test_a_system_message_needs_a_chat(model: Model, letters: Contrast) -> None:
    plan = Prompting("be kind", place="system").fit(model, letters)
    user = {"role": "user", "content": "the sea"}
    expected = model.generate([{"role": "system", "content": "be kind"}, user], max_new_tokens=6)
    with plan.on(model):
        assert model.generate([user], max_new_tokens=6) == expected
        with pytest.raises(PlanError, match="needs a chat"):
            model.generate("the sea", max_new_tokens=6)
