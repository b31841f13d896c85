"""Spans are found in the whole prompt, by text."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from saesteer import steer
from saesteer.errors import PlanError
from saesteer.steer import Plan
from saesteer.steer.frame import Prompt, read_frame
from saesteer.steer.ids import Ids
from saesteer.steer.spans import token_spans

WORDS = ["", "the", " rain", " in", " the", " town", "!", "ra"]


def decode(ids: Sequence[int]) -> str:
    return "".join(WORDS[i] for i in ids)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rain", [(1, 2)]),
        (" in the", [(2, 4)]),
        ("the", [(0, 1), (3, 4)]),
        ("n i", [(1, 3)]),
        ("town!", [(4, 6)]),
        ("sun", []),
    ],
)
def test_tokens_that_overlap_the_text(text: str, expected: list[tuple[int, int]]) -> None:
    assert token_spans([1, 2, 3, 4, 5, 6], text, decode) == expected


def test_a_span_across_two_chunks_is_found_and_padding_does_not_shift_it() -> None:
    ids = torch.tensor([[0, 1, 2, 3, 4], [2, 3, 4, 5, 6]])
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    prompt = Prompt(mask.sum(-1), ids, mask.bool())
    where = steer.spans("rain in")
    whole = read_frame((ids,), {"attention_mask": mask}, prompt=prompt, decode=decode)
    expected = torch.tensor([[0, 0, 1, 1, 0], [1, 1, 0, 0, 0]]).bool()
    assert torch.equal(where.mask(whole), expected)
    for start, stop in ((0, 2), (2, 3), (3, 5)):
        kwargs = {"input_ids": ids[:, start:stop], "attention_mask": mask[:, :stop]}
        part = read_frame((), kwargs, prompt=prompt, start=start, decode=decode)
        assert torch.equal(where.mask(part), expected[:, start:stop])
    after = read_frame(
        (torch.tensor([[2], [2]]),),
        {"attention_mask": torch.cat([mask, torch.ones(2, 1)], 1)},
        prompt=prompt,
        start=5,
        decode=decode,
    )
    assert not where.mask(after).any()


def test_a_scored_text_is_searched_up_to_its_prompt_s_end() -> None:
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    for length, hits in ((None, [0, 3]), (2, [0])):
        prompt = None if length is None else Prompt(torch.tensor([length]))
        frame = read_frame((ids,), {}, prompt=prompt, decode=decode)
        assert steer.spans("the").mask(frame).nonzero()[:, 1].tolist() == hits


def test_special_tokens_of_a_span_are_taken_where_they_are_asked_for() -> None:
    frame = read_frame((torch.tensor([[1, 2, 3]]),), {}, special=Ids([2]), decode=decode)
    assert steer.spans("the rain in").mask(frame).tolist() == [[True, False, True]]
    assert steer.spans("the rain in", special=True).mask(frame).all()


def test_what_can_t_be_searched_is_an_error() -> None:
    ids = torch.tensor([[1, 2]])
    with pytest.raises(PlanError, match="tokenizer"):
        steer.spans("the").mask(read_frame((ids,), {}))
    with pytest.raises(PlanError, match="whole prompt"):
        steer.spans("the").mask(read_frame((ids,), {}, start=3, decode=decode))
    with pytest.raises(PlanError, match="given embeddings; pass input_ids"):
        steer.spans("the").mask(read_frame((), {"inputs_embeds": ids[..., None]}, decode=decode))


def test_spans_in_a_model(tiny_model) -> None:
    model = tiny_model("llama")
    vector = torch.ones(model.d_model)
    with Plan(steer.add("resid_post.1", vector), where=steer.spans("sea")).on(model) as trace:
        model.generate("the sea and the rain", max_new_tokens=3)
    (touched,) = [p.touched for p in trace.passes if p.start == 0]
    (mask,) = touched.values()
    ids = model.tokenize("the sea and the rain").input_ids[mask]
    assert "sea" in model.tokenizer.decode(ids)
    assert trace.n_edited == int(mask.sum()) < 6
