"""Positions are counted from a row's first real token, whatever the pass contains."""

from __future__ import annotations

import inspect

import pytest
import torch

from saesteer import steer
from saesteer.errors import PlanError
from saesteer.steer import Frame, Where
from saesteer.steer.frame import Prompt, read_frame
from saesteer.steer.ids import Ids
from saesteer.steer.where import is_count

SPECIAL = (1, 2, 9)  # BOS, EOS, a chat marker
IDS = torch.tensor([[0, 0, 1, 5, 6, 9, 7, 9, 8], [1, 5, 5, 5, 6, 6, 7, 8, 8]])
MASK = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 9])
LENGTHS = [4, 6]


def chosen(where: Where, cuts: tuple[int, ...] = ()) -> list[list[int]]:
    """Chosen columns per row, from passes that are cut at these columns."""
    rows: list[list[int]] = [[], []]
    for start, stop in zip((0, *cuts), (*cuts, IDS.shape[1]), strict=True):
        frame = Frame.of(
            IDS[:, start:stop],
            MASK[:, :stop],
            start=start,
            prompt_lengths=LENGTHS,
            special_ids=SPECIAL,
        )
        for row, column in where.mask(frame).nonzero().tolist():
            rows[row].append(start + column)
    return rows


CASES = [
    (steer.prompt(), [[3, 4], [1, 2, 3, 4, 5]]),
    (steer.prompt(special=True), [[2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]),
    (steer.generated(), [[5, 6, 8], [5, 6, 7, 8]]),  # 5 in row 0 is special, and the last one
    (steer.generated(special=True), [[5, 6, 7, 8], [5, 6, 7, 8]]),
    (steer.last(), [[5], [5]]),
    (steer.all(), [[3, 4, 6, 8], [1, 2, 3, 4, 5, 6, 7, 8]]),
    (steer.all(special=True), [[2, 3, 4, 5, 6, 7, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8]]),
    (steer.first(3), [[3, 4], [1, 2]]),
    (steer.positions([0, 2, 6]), [[2, 4, 8], [0, 2, 6]]),
]


@pytest.mark.parametrize(("where", "expected"), CASES, ids=lambda value: type(value).__name__)
def test_what_is_chosen(where: Where, expected: list[list[int]]) -> None:
    assert chosen(where) == expected


@pytest.mark.parametrize("where", [case[0] for case in CASES], ids=lambda w: type(w).__name__)
@pytest.mark.parametrize("cuts", [(5,), (2, 6), (1, 2, 3, 4, 5, 6, 7, 8)])
def test_cutting_a_text_into_passes_changes_nothing(where: Where, cuts: tuple[int, ...]) -> None:
    assert chosen(where, cuts) == chosen(where)


def test_choices_of_one_kind_are_told_apart_in_one_pass() -> None:
    frame = Frame.of(IDS, MASK, prompt_lengths=LENGTHS, special_ids=SPECIAL)
    for where in (*(case[0] for case in CASES), steer.first(5), steer.positions([1])):
        assert torch.equal(where.mask(frame), where.chosen(frame))


@pytest.mark.parametrize(
    ("value", "counts"),
    [(1, True), (2**31 - 1, True), (2**31, False), (0, False), (True, False), (1.0, False)],
)
def test_a_count_is_a_whole_number_that_a_tensor_of_positions_can_hold(
    value: object, counts: bool
) -> None:
    assert is_count(value, 1) is counts


def test_one_position_needs_no_list_and_halves_are_none() -> None:
    assert steer.positions(3) == steer.positions([3])
    for wrong in (1.5, [0, "1"]):
        with pytest.raises(PlanError, match="give whole numbers"):
            inspect.unwrap(steer.positions)(wrong)


def test_equal_choices_are_equal_values() -> None:
    assert steer.first(3) == steer.first(3) != steer.first(4)
    assert len({steer.all(), steer.all(), steer.generated()}) == 2


@pytest.mark.parametrize("where", [steer.prompt(), steer.generated(), steer.last()])
def test_without_prompt_lengths_the_error_says_what_to_pass(where: Where) -> None:
    frame = Frame.of(IDS, MASK)
    with pytest.raises(PlanError, match=r"plan\.on\(model, prompt_lengths="):
        where.mask(frame)
    assert steer.all().mask(frame).sum() == MASK.sum()


@pytest.mark.parametrize("cuts", [(), (3,), (6,), (5, 6, 7, 8), (2, 7)])
@pytest.mark.parametrize("where", [steer.generated(), steer.generated(special=True), steer.all()])
def test_knowing_the_prompts_columns_changes_no_choice(where: Where, cuts: tuple[int, ...]) -> None:
    lengths = torch.tensor(LENGTHS)
    known = Prompt(lengths, mask=MASK[:, :6] > 0, stop_ids=(8,))
    unknown = Prompt(lengths, stop_ids=(8,))
    answered = []
    for start, stop in zip((0, *cuts), (*cuts, IDS.shape[1]), strict=True):
        passed = {"input_ids": IDS[:, start:stop], "attention_mask": MASK[:, :stop]}
        frames = [
            read_frame((), passed, prompt=prompt, start=start, special=Ids(SPECIAL))
            for prompt in (known, unknown)
        ]
        answered.append(frames[0].answered)
        assert torch.equal(where.mask(frames[0]), where.mask(frames[1]))
        assert torch.equal(frames[0].live, frames[1].live)
    assert any(answered) == any(cut >= 6 for cut in cuts)
