"""A head and all heads side by side are one place: everything there acts on what came to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from saesteer import steer
from saesteer.models import Model, Site
from saesteer.steer import Edit, Frame, Intervention, Plan

IDS = torch.tensor([[5, 6, 7, 8, 9]])
EVERYWHERE = steer.all(special=True)
WHOLE, HEAD = "head_out.1", "head_out.1.2"


def vector(seed: int, width: int) -> Tensor:
    return 5 * torch.randn(width, generator=torch.Generator().manual_seed(seed))


SHARE = vector(3, 8)
ADDED = torch.zeros(32).index_copy(0, torch.arange(16, 24), SHARE)
MAPPED = steer.affine(WHOLE, 1 + 0.1 * vector(1, 32), torch.ones(32))
ON_HEAD = steer.add(HEAD, SHARE)
ON_HEADS = (ON_HEAD, steer.project_out("head_out.1.0", vector(4, 8)))


@pytest.fixture(params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, tiny_model: Any) -> Model:
    return tiny_model(request.param)


def logits(model: Model, *plans: Plan) -> Tensor:
    if not plans:
        with torch.no_grad():
            return model.hf(IDS).logits
    with plans[0].on(model):
        return logits(model, *plans[1:])


def close(a: Tensor, b: Tensor) -> None:
    assert (a - b).abs().max() <= 1e-5 * a.abs().max()


def everywhere(*acts: Intervention) -> Plan:
    return Plan(*acts, where=EVERYWHERE)


def test_within_a_plan_all_act_on_what_came_in_either_order(model: Model) -> None:
    together = logits(model, everywhere(MAPPED, steer.add(WHOLE, ADDED)))
    close(together, logits(model, everywhere(MAPPED, ON_HEAD)))
    close(together, logits(model, everywhere(ON_HEAD, MAPPED)))
    with everywhere(MAPPED, ON_HEAD).compiled(model):
        close(together, logits(model))
    with everywhere(*ON_HEADS).compiled(model):
        compiled = logits(model)
    close(compiled, logits(model, everywhere(*ON_HEADS)))


def test_plans_act_in_the_order_in_which_they_were_attached(model: Model) -> None:
    whole, head = everywhere(MAPPED), everywhere(ON_HEAD)
    as_whole = everywhere(steer.add(WHOLE, ADDED))
    close(logits(model, whole, head), logits(model, whole, as_whole))
    close(logits(model, head, whole), logits(model, as_whole, whole))


def test_what_only_one_of_them_edits_is_edited_bit_for_bit(model: Model) -> None:
    first, rest = (steer.positions([at]) for at in (1, 3))
    for one, other in ((ON_HEAD, MAPPED), (MAPPED, ON_HEAD)):
        apart = Plan(Edit(one, where=first), Edit(other, where=rest))
        nested = logits(model, Plan(one, where=first), Plan(other, where=rest))
        assert torch.equal(logits(model, apart), nested)


@dataclass(frozen=True, eq=False)
class Reader:
    """Always open; keeps what it reads."""

    sites: tuple[Site, ...]
    seen: list[Tensor] = field(default_factory=list)

    def new_state(self) -> object:
        return None

    def open(self, readings: Mapping[Site, Tensor], frame: Frame, state: Any) -> Tensor:
        self.seen.append(readings[self.sites[0]].clone())
        return torch.ones_like(frame.valid)


@pytest.mark.parametrize("read", [WHOLE, HEAD])
@pytest.mark.parametrize("acts", [(ON_HEAD,), (MAPPED,), (ON_HEAD, MAPPED)])
def test_gates_read_what_came_whichever_of_them_they_open(
    model: Model, read: str, acts: tuple[Intervention, ...]
) -> None:
    plain, gate = Reader((Site.parse(read),)), Reader((Site.parse(read),))
    nothing = Edit(steer.add("resid_post.3", torch.zeros(32)), EVERYWHERE, plain)
    logits(model, Plan(nothing))
    gated = [Edit(act, EVERYWHERE, gate) for act in acts]
    close(logits(model, Plan(*gated)), logits(model, everywhere(*acts)))
    assert torch.equal(gate.seen[0], plain.seen[0])
