"""A condition on the prompt: the paper's score, over the right tokens, each row for itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from saesteer.errors import PlanError
from saesteer.models import Site
from saesteer.steer import Frame, PromptCondition, condition_score

SITE = Site.parse("resid_post.1")
WIDTH = 6
VECTOR = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
RESID = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(2))
IDS = torch.arange(4, 18).view(2, 7)
MASK = torch.tensor([[1] * 7, [0, 0] + [1] * 5])
LENGTHS = [4, 3]


def written_out(summary: Tensor) -> float:
    """The paper's formula with P as a matrix."""
    projector = torch.outer(VECTOR, VECTOR) / (VECTOR @ VECTOR)
    squashed = torch.tanh(projector @ summary)
    return float(summary @ squashed / (summary.norm() * squashed.norm()))


def gate(over: Literal["mean", "last"] = "mean", limit: float | None = None) -> PromptCondition:
    return PromptCondition(SITE, VECTOR, 0.0, over=over, norm_limit=limit)


def scores(of: PromptCondition, resid: Tensor = RESID, special: tuple[int, ...] = ()) -> Tensor:
    """What the whole text notes, `[batch, pos]`."""
    frame = Frame.of(IDS, MASK, prompt_lengths=LENGTHS, special_ids=special)
    of.open({SITE: resid}, frame, of.new_state())
    return frame.evidence["condition"]


def test_the_score_is_the_papers() -> None:
    for summary in RESID[0]:
        expected = written_out(summary)
        assert float(condition_score(summary, VECTOR)) == pytest.approx(expected, abs=1e-5)
        assert float(condition_score(-summary, VECTOR)) == pytest.approx(expected, abs=1e-5)


def test_the_mean_is_over_the_prompt_and_stays() -> None:
    got = scores(gate())
    for row, tokens in enumerate((RESID[0, :4], RESID[1, 2:5])):
        expected = written_out(tokens.mean(0))
        end = 3 if row == 0 else 4
        assert torch.allclose(got[row, end:], torch.full_like(got[row, end:], expected), atol=1e-5)


def test_the_last_token_is_the_prompts() -> None:
    got = scores(gate("last"))
    assert float(got[0, -1]) == pytest.approx(written_out(RESID[0, 3]), abs=1e-5)
    assert float(got[1, -1]) == pytest.approx(written_out(RESID[1, 4]), abs=1e-5)


def test_special_and_massive_tokens_stay_out_of_the_mean() -> None:
    massive = RESID.clone()
    massive[0, 0] *= 1000
    limit = float(RESID.norm(dim=-1).max()) + 1
    got = scores(gate(limit=limit), massive, special=(int(IDS[0, 1]),))
    assert float(got[0, -1]) == pytest.approx(written_out(RESID[0, 2:4].mean(0)), abs=1e-5)


@pytest.mark.parametrize("above", [True, False])
def test_it_opens_at_the_prompts_end_in_rows_on_the_right_side(above: bool) -> None:
    each = scores(gate())[:, -1]
    met = replace(gate(), threshold=float(each.mean()), above=above)
    frame = Frame.of(IDS, MASK, prompt_lengths=LENGTHS)
    opened = met.open({SITE: RESID}, frame, met.new_state())
    right = int(each.argmax() if above else each.argmin())
    assert not opened[1 - right].any()
    assert opened[right].tolist() == [False] * (3 if right == 0 else 4) + [True] * (
        4 if right == 0 else 3
    )
    side = "above" if above else "below"
    assert f"opens {side}" in met.explain(frame.evidence, right, 6)


@pytest.mark.parametrize("chunk", [1, 2, 3])
@pytest.mark.parametrize("over", ["mean", "last"])
def test_chunks_agree_with_the_whole_text(chunk: int, over: Literal["mean", "last"]) -> None:
    condition = gate(over)
    whole, state, parts = scores(condition), condition.new_state(), []
    for start in range(0, 7, chunk):
        here = slice(start, min(start + chunk, 7))
        mask = MASK[:, : here.stop]
        frame = Frame.of(IDS[:, here], mask, start=start, prompt_lengths=LENGTHS)
        condition.open({SITE: RESID[:, here]}, frame, state)
        parts.append(frame.evidence["condition"])
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-6)


def test_it_must_know_where_the_prompt_ends() -> None:
    frame = Frame.of(IDS, MASK)
    with pytest.raises(PlanError, match="a prompt's condition needs to know where the prompt ends"):
        gate().open({SITE: RESID}, frame, gate().new_state())


def test_a_cache_from_before_the_plan_counts_as_nothing(tiny_model: Callable[..., object]) -> None:
    condition = gate()
    frame = Frame.of(IDS[:, 3:], MASK, start=3, prompt_lengths=LENGTHS)
    condition.open({SITE: RESID[:, 3:]}, frame, condition.new_state())
    expected = written_out(RESID[0, 3])
    assert float(frame.evidence["condition"][0, -1]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("over", ["mean", "last"])
def test_padding_behind_a_prompt_is_neither_counted_nor_open(over: Literal["mean", "last"]) -> None:
    condition = replace(gate(over), threshold=2.0, above=False)
    mask = torch.tensor([[1, 1, 1, 0, 0, 1, 1]])
    frame = Frame.of(IDS[:1], mask, prompt_lengths=[3])
    opened = condition.open({SITE: RESID[:1]}, frame, condition.new_state())
    assert opened.tolist() == [[False, False, True, False, False, True, True]]
    expected = written_out(RESID[0, :3].mean(0) if over == "mean" else RESID[0, 2])
    assert float(frame.evidence["condition"][0, -1]) == pytest.approx(expected, abs=1e-5)


def test_a_prompt_of_special_tokens_alone_is_of_no_kind() -> None:
    condition = replace(gate(), threshold=2.0, above=False)
    special = [int(each) for each in IDS[0, :4]]
    frame = Frame.of(IDS, MASK, prompt_lengths=LENGTHS, special_ids=special)
    opened = condition.open({SITE: RESID}, frame, condition.new_state())
    assert opened.any(1).tolist() == [False, True]
    assert frame.evidence["condition"].isfinite().all()
