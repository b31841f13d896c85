"""The plans that every law is tried with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from laws import clamp_plan, direction, latch_plan, scaled_plan

from saesteer import steer
from saesteer.models import Model
from saesteer.steer import Plan


@pytest.fixture(params=("add", "clamp", "scaled", "latch"))
def plan_for(request: pytest.FixtureRequest, tiny_sae: Any) -> Callable[[Model], Plan]:
    """Makes one of the plans above for a model."""

    def make(model: Model) -> Plan:
        match request.param:
            case "add":
                return Plan(steer.add("resid_post.2", 10 * direction(model, 1)))
            case "clamp":
                return clamp_plan(model, tiny_sae(model, "resid_post.2"))
            case "scaled":
                return scaled_plan(model)
            case _:
                return latch_plan(model)

    return make
