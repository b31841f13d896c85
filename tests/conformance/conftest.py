"""The plans that every law is tried with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from laws import clamp_plan, latch_plan

from saesteer.models import Model
from saesteer.steer import Plan


@pytest.fixture(params=("edits", "latch"))
def plan_for(request: pytest.FixtureRequest, tiny_sae: Any) -> Callable[[Model], Plan]:
    """Makes a plan for a model: edits of every kind, or one behind a gate that remembers."""

    def make(model: Model) -> Plan:
        if request.param == "latch":
            return latch_plan(model)
        return clamp_plan(model, tiny_sae(model, "resid_post.2"))

    return make
