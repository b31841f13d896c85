"""A frame says the same of a token whatever mask, cache or chunk it came with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from saesteer import steer
from saesteer.errors import PlanError
from saesteer.steer import Frame, Plan
from saesteer.steer.frame import Prompt, read_frame
from saesteer.steer.ids import Ids

IDS = torch.tensor([[0, 0, 5, 6, 7], [5, 6, 7, 8, 9]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])


class Cache:
    """As much of a cache as a frame asks for."""

    def __init__(self, length: Any) -> None:
        self.length = length

    def get_seq_length(self) -> Any:
        return self.length


def four_d(kind: torch.dtype, keys: int = 8) -> torch.Tensor:
    """The causal mask of MASK over a static cache of `keys` columns."""
    padded = torch.nn.functional.pad(MASK.bool(), (0, keys - 5))
    causal = torch.arange(5)[:, None] >= torch.arange(keys)[None]
    allowed = (causal[None] & padded[:, None, :])[:, None]
    return allowed if kind == torch.bool else torch.where(allowed, 0.0, -1e30)


@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
@pytest.mark.parametrize("with_positions", [True, False])
def test_four_dimensional_masks_say_the_same(kind: torch.dtype, with_positions: bool) -> None:
    plain = read_frame((IDS,), {"attention_mask": MASK})
    kwargs: dict[str, Any] = {"attention_mask": four_d(kind)}
    if with_positions:
        kwargs["position_ids"] = (MASK.cumsum(-1) - 1).clamp(min=0)
    frame = read_frame((IDS,), kwargs)
    assert torch.equal(frame.valid, plain.valid)
    assert torch.equal(frame.logical[plain.valid], plain.logical[plain.valid])


def test_the_full_mask_is_taken_from_a_mask_per_layer_kind() -> None:
    masks = {"sliding_attention": four_d(torch.bool)[..., :2], "full_attention": MASK}
    assert torch.equal(read_frame((IDS,), {"attention_mask": masks}).valid, MASK.bool())


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_pass_on_a_cache_starts_where_the_cache_ends(name: str) -> None:
    for length in (3, torch.tensor(3)):
        kwargs = {"input_ids": IDS[:, 3:], "attention_mask": MASK, name: Cache(length)}
        frame = read_frame((), kwargs)
        assert (frame.start, frame.n_columns, frame.first_pass) == (3, 5, False)
        assert frame.logical.tolist() == [[1, 2], [3, 4]]


def test_a_live_counter_is_read_once() -> None:
    counter = torch.tensor(3)
    frame = read_frame((), {"input_ids": IDS[:, 3:], "past_key_values": Cache(counter)})
    counter += 2
    assert frame.start == 3


def test_padding_is_never_a_position() -> None:
    frame = Frame.of(IDS, MASK, prompt_lengths=[2, 4])
    assert frame.live.sum() == 8
    assert frame.logical[0, 2:].tolist() == [0, 1, 2]


def test_rows_finish_at_generated_stops_only() -> None:
    ids = torch.tensor([[2, 5, 2, 0], [5, 5, 6, 2]])
    prompt = Prompt(torch.tensor([2, 2]), stop_ids=(2, 0))
    frame = read_frame((ids,), {}, prompt=prompt)
    assert frame.live.tolist() == [[True, True, False, False], [True, True, True, False]]


def test_prompts_stretch_over_their_beams() -> None:
    prompt = Prompt(torch.tensor([2, 4]))
    assert prompt.per_row(prompt.lengths, 6).tolist() == [2, 2, 2, 4, 4, 4]
    assert Prompt(torch.tensor([3])).per_row(torch.tensor([3]), 2).tolist() == [3, 3]
    with pytest.raises(PlanError, match="2 rows but the pass has 3"):
        prompt.per_row(prompt.lengths, 3)


def test_prompts_are_read_by_passes_of_several_sizes() -> None:
    prompt = Prompt(torch.tensor([2, 3]), mask=torch.ones(2, 4))
    cpu = torch.device("cpu")
    for rows in (2, 4, 2):
        assert prompt.lengths_of(rows, cpu).tolist() == [2] * (rows // 2) + [3] * (rows // 2)
        assert prompt.pads_of(rows, cpu).tolist() == [2] * (rows // 2) + [1] * (rows // 2)


def test_what_is_noted_holds_no_graph() -> None:
    frame, scores = Frame.of(IDS, MASK), torch.ones(2, requires_grad=True) * 2
    frame.note("scores", scores)
    assert torch.equal(frame.evidence["scores"], scores)
    assert not frame.evidence["scores"].requires_grad


def test_embeddings_have_positions_but_no_tokens() -> None:
    frame = read_frame((), {"inputs_embeds": torch.zeros(2, 5, 8), "attention_mask": MASK})
    assert frame.input_ids is None
    assert frame.special is None
    assert torch.equal(frame.valid, MASK.bool())


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({}, "without input_ids"),
        ({"input_ids": IDS[0]}, r"a pass over \[5\] can't be steered; expected ids \[batch, pos\]"),
        ({"inputs_embeds": torch.zeros(5, 8)}, r"a pass over \[5, 8\] can't be steered"),
        ({"input_ids": IDS, "cu_seq_lens_q": torch.tensor([0, 5])}, "packed"),
        ({"input_ids": IDS, "position_ids": torch.tensor([[0, 1, 2, 0, 1]])}, "restart"),
        ({"input_ids": IDS, "attention_mask": MASK[:, :3]}, "covers 3 columns"),
        ({"input_ids": IDS, "attention_mask": "causal"}, "type str"),
    ],
)
def test_what_cannot_be_steered_is_refused(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        read_frame((), kwargs)


def test_arguments_of_packed_rows_that_are_none_are_taken() -> None:
    assert read_frame((IDS,), {"cu_seq_lens_q": None, "block_table": None}).valid.all()


def test_ids_outside_the_set_are_not_in_it() -> None:
    tokens = torch.tensor([[0, 3, 4, 100]])
    three, none = Ids([3], [])(tokens)
    assert three.tolist() == [[False, True, False, False]]
    assert not none.any()
    assert not Ids([])(tokens)[0].any()


def test_behind_padded_prompts_places_are_what_counting_the_mask_gives(tiny_model: Any) -> None:
    """In `generate` a step is placed from its prompt's padding, without counting."""
    model = tiny_model("llama")
    batch = model.tokenize(["the sun", "the rain in the town and the sea"])
    given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long()}
    with Plan(steer.add("resid_post.0", torch.ones(model.d_model))).on(model) as trace:
        out = model.hf.generate(**given, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    mask = torch.cat([given["attention_mask"], torch.ones(2, 4, dtype=torch.long)], 1)
    counted = mask.cumsum(-1) - 1
    assert out.shape == mask.shape
    steps = [record for record in trace.passes if record.start]
    assert len(steps) == 3
    for record in steps:
        assert record.live.all()
        assert torch.equal(record.logical, counted[:, record.start : record.start + 1])


FIELDS = ("start", "input_ids", "special", "finished", "prompt_lengths", "answered", "valid")


@pytest.mark.parametrize(
    ("ids", "padded"),
    [([[5], [6]], False), ([[5], [6]], True), ([[2], [6]], True), ([[0], [3]], True)],
)
def test_a_step_that_follows_one_is_read_as_any_other(
    ids: list[list[int]], *, padded: bool
) -> None:
    mask = MASK if padded else torch.ones_like(MASK)
    prompt, special = Prompt(mask.sum(-1), IDS, mask, stop_ids=(3,)), Ids([0, 1, 2])

    def given(tokens: list[list[int]], length: int) -> dict[str, Any]:
        seen = torch.cat([mask, torch.ones(2, length - 4).long()], 1)
        ids = torch.tensor(tokens)
        return {"input_ids": ids, "attention_mask": seen, "past_key_values": Cache(length)}

    first = read_frame((), given([[8], [9]], 5), prompt=prompt, special=special)
    step, anew = given(ids, 6), read_frame((), given(ids, 6), prompt=prompt, special=special)
    frame = first.next_step(step, special)
    assert frame is not None
    for name in FIELDS:
        mine, known = getattr(frame, name), getattr(anew, name)
        same = torch.equal(mine, known) if isinstance(known, torch.Tensor) else mine == known
        assert same, name
    assert torch.equal(frame.logical[:, -1:], anew.logical)
    assert frame.memo == {}
    assert frame.memo is not first.memo
    assert frame.evidence is not first.evidence


def test_an_answer_is_plain_where_nothing_is_padding_special_or_finished() -> None:
    prompt = Prompt(torch.tensor([4, 4]), mask=torch.ones(2, 4))
    plain = read_frame((IDS[:, 4:],), {"past_key_values": Cache(4)}, prompt=prompt)
    assert plain.plain_answer
    marks, padded = torch.tensor([[True], [False]]), Frame.of(IDS, MASK).places
    for changes in ({"special": marks}, {"finished": marks}, {"answered": False}):
        assert not replace(plain, **changes).plain_answer
    assert not replace(plain, places=padded).plain_answer


def test_what_is_no_such_step_is_not_read_as_one() -> None:
    prompt = Prompt(MASK.sum(-1), IDS, MASK)
    ones = torch.ones(2, 1).long()
    seen = {"attention_mask": torch.cat([MASK, ones], 1), "past_key_values": Cache(5)}
    step = {**seen, "input_ids": ones}
    first = read_frame((), step, prompt=prompt)
    assert first.next_step(step, None) is not None
    assert first.next_step({**step, "input_ids": None}, None) is None
    assert first.next_step({**step, "input_ids": torch.ones(2, 2).long()}, None) is None
    assert first.next_step({**step, "input_ids": torch.ones(4, 1).long()}, None) is None
    assert first.next_step({**step, "past_key_values": Cache(4)}, None) is None
    whole = read_frame((IDS,), {"attention_mask": MASK}, prompt=prompt)
    assert whole.next_step(step, None) is None
