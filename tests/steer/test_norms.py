"""The typical norm is a constant of a model and a site."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from saesteer import steer
from saesteer.errors import PlanError
from saesteer.models import Model, Site
from saesteer.steer import Plan
from saesteer.steer.norms import typical_norm

UNIT = torch.nn.functional.normalize(torch.ones(32), dim=0)


def test_it_is_measured_on_the_plain_model_even_under_a_plan(tiny_model: Any) -> None:
    model, site = tiny_model("qwen3"), Site(2, "resid_post")
    plan = Plan(steer.add("resid_post.1", 1e4 * UNIT))  # generated(): would raise in a plain pass
    inner = Plan(steer.add_scaled(site, UNIT))
    with plan.on(model), inner.on(model):
        pass
    under = typical_norm(model, site)
    from saesteer.steer import norms

    norms._MEASURED.pop(model.hf)
    assert typical_norm(model, site) == under > 0


def test_without_a_tokenizer_it_has_to_be_given(tiny_model: Any) -> None:
    whole = tiny_model("llama")
    model = Model(whole.hf, None, "bare", whole.layout)
    with pytest.raises(PlanError, match="typical_norm="):
        Plan(steer.add_scaled("resid_post.3", UNIT)).attach(model)
    with Plan(steer.add_scaled("resid_post.3", UNIT, typical_norm=5.0)).on(model):
        pass
