"""Chat regions: the messages of a role, found from the template, at positions that don't move."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from laws import generate

from saesteer import steer
from saesteer.errors import PlanError
from saesteer.models import Model
from saesteer.steer import Plan

CHAT = [
    {"role": "system", "content": "the sea"},
    {"role": "user", "content": "rain in the town"},
    {"role": "assistant", "content": "a sun"},
    {"role": "user", "content": "x y"},
]


@pytest.fixture
def model(tiny_model: Any) -> Model:
    return tiny_model("llama")


def edited(model: Model, role: str, chats: list[Any], **options: Any) -> list[str]:
    """The text of edited positions, row by row."""
    plan = Plan(steer.add("resid_post.1", torch.ones(model.d_model)), where=steer.chat(role))
    batch = model.tokenize(chats)
    with plan.on(model) as trace:
        model.hf.generate(
            batch.input_ids,
            attention_mask=batch.attention_mask.long(),
            max_new_tokens=4,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            **options,
        )
    found: list[dict[int, int]] = [{} for _ in chats]
    for record in trace.passes:
        for deed in record.deeds:
            for row, index in deed.mask.nonzero().tolist():
                assert record.input_ids is not None
                at = int(record.logical[row, index])
                found[row][at] = int(record.input_ids[row, index])
    return [model.tokenizer.decode([row[at] for at in sorted(row)]) for row in found]


@pytest.mark.parametrize(
    "options",
    [{}, {"use_cache": False}, {"prefill_chunk_size": 3}],
    ids=["plain", "uncached", "chunked"],
)
def test_a_role_is_its_messages_and_nothing_around_them(
    model: Model, options: dict[str, Any]
) -> None:
    chats = [CHAT, CHAT[1:2]]  # the second is padded
    expected = {
        "user": ["rain in the townx y", "rain in the town"],
        "system": ["the sea", ""],
        "assistant": ["a sun", ""],
    }
    for role, texts in expected.items():
        got = [text.replace(" ", "") for text in edited(model, role, chats, **options)]
        assert got == [text.replace(" ", "") for text in texts]


def test_what_has_no_template_or_role_is_refused(model: Model) -> None:
    with pytest.raises(PlanError, match="expected one of system, user, assistant"):
        steer.chat("tool")
    plan = Plan(steer.add("resid_post.1", torch.ones(32)), where=steer.chat("user"))
    template, model.tokenizer.chat_template = model.tokenizer.chat_template, None
    try:
        with plan.on(model), pytest.raises(PlanError, match="chat template"):
            generate(model, ["hello"])
    finally:
        model.tokenizer.chat_template = template


@pytest.mark.full
@pytest.mark.real
def test_the_real_template_is_read(real_model: Model) -> None:
    words = edited(real_model, "user", [CHAT])
    assert words == ["rain in the townx y"]
    assert edited(real_model, "system", [CHAT]) == ["the sea"]
