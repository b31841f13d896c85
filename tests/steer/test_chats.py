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
from saesteer.steer.chats import Reader
from saesteer.steer.frame import Prompt, read_frame
from saesteer.steer.ids import Ids

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


def test_roles_are_told_apart_in_one_pass_and_special_tokens_left_out(model: Model) -> None:
    ids = model.tokenize([CHAT]).input_ids
    whole = torch.ones_like(ids, dtype=torch.bool)
    prompt, reader = Prompt(whole.sum(-1), ids, whole), Reader(model.tokenizer)
    frame = read_frame((ids,), {}, prompt=prompt, decode=reader)
    masks = {role: steer.chat(role).mask(frame) for role in ("system", "user", "assistant")}
    texts = [reader(ids[mask].tolist()).replace(" ", "") for mask in masks.values()]
    assert texts == ["thesea", "raininthetownxy", "asun"]
    special = Ids([int(ids[masks["system"]][0])])
    frame = read_frame((ids,), {}, prompt=prompt, decode=reader, special=special)
    assert frame.special is not None
    left = masks["system"] & ~frame.special
    assert left.sum() < masks["system"].sum()
    assert torch.equal(steer.chat("system").mask(frame), left)
    assert torch.equal(steer.chat("system", special=True).mask(frame), masks["system"])


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


def test_a_role_that_the_template_refuses_is_said_with_those_it_has(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = model.tokenize([CHAT]).input_ids
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}"
    monkeypatch.setattr(model.tokenizer, "chat_template", refuses + model.tokenizer.chat_template)
    frame = read_frame((ids,), {}, decode=Reader(model.tokenizer))
    with pytest.raises(PlanError, match=r"has no such role; it has user, assistant\.$"):
        steer.chat("system").mask(frame)


@pytest.mark.full
@pytest.mark.real
def test_the_real_template_is_read(real_model: Model) -> None:
    words = edited(real_model, "user", [CHAT])
    assert words == ["rain in the townx y"]
    assert edited(real_model, "system", [CHAT]) == ["the sea"]
