"""The plans that every law is tried with, and the record of laws for those who ask for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from law_record import VARIABLE, LawRecord
from laws import clamp_plan, latch_plan
from refusals import Place

from saesteer.models import Model
from saesteer.steer import Plan


def pytest_configure(config: pytest.Config) -> None:
    """Record laws if the environment says where."""
    if path := os.environ.get(VARIABLE):
        config.pluginmanager.register(LawRecord(Path(path).resolve()), "law_record")


@pytest.fixture(params=("edits", "latch"))
def plan_for(request: pytest.FixtureRequest, tiny_sae: Any) -> Callable[[Model], Plan]:
    """Makes a plan for a model: edits of every kind, or one behind a gate that remembers."""

    def make(model: Model) -> Plan:
        if request.param == "latch":
            return latch_plan(model)
        return clamp_plan(model, tiny_sae(model, "resid_post.2"))

    return make


@pytest.fixture
def place(tiny_model: Any, tiny_sae: Any, tmp_path: Path) -> Place:
    """A tiny Llama, an SAE of it and a folder, for bad input."""
    model = tiny_model("llama")
    return Place(model, tiny_sae(model, "resid_post.2"), tmp_path)
