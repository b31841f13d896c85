"""Laws of every method: one seam, a name, a plan that can be scaled, saved and undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, is_dataclass, replace
from pathlib import Path

import pytest
import torch
from donor import donor

import saesteer.methods as methods
from saesteer.data.contrast import Contrast
from saesteer.methods import Method
from saesteer.models import Model
from saesteer.saes import SAE
from saesteer.steer import Plan

TEXT = "some words of no kind"
NAMES = (
    "WorldModel",
    "CommandV",
    "BindingIDs",
    "RefusalCliff",
    "HNeurons",
    "ExpertNeurons",
    "LanguageArithmetics",
    "ToxificationReversal",
    "GACT",
    "BroadSkills",
    "PersonaVectors",
    "NLITI",
    "ActivationReasoning",
    "SCAR",
    "SAETS",
    "LFSteering",
    "OutputScore",
    "CAA",
    "CAST",
    "ITI",
    "ActAdd",
    "AurA",
    "BreakingBadTokens",
    "DirectionalAblation",
    "DynamicActivationComposition",
    "FASB",
    "FeatureSteering",
    "LinearAcT",
    "LinearProbe",
    "MassMean",
    "Prompting",
    "RandomDirection",
    "RandomFeature",
    "RepE",
)
FASTER = {"SAETS": {"n_vectors": 4, "n_tokens": 2}}
"""Settings for methods whose own are too slow for eight tests."""


@pytest.fixture(params=NAMES)
def method(request: pytest.FixtureRequest, tiny_sae: Callable[..., SAE], model: Model) -> Method:
    kind = getattr(methods, request.param)
    if request.param == "CommandV":
        return kind(*donor())
    needs_sae = "sae" in kind.__dataclass_fields__
    return kind(tiny_sae(model, "resid_post.1")) if needs_sae else kind()
    if "sae" not in kind.__dataclass_fields__:
        return kind()
    sae = tiny_sae(model, "resid_post.1")
    return kind(replace(sae, metadata={"supervised_latent": 3}), **FASTER.get(request.param, {}))


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Model]) -> Model:
    return tiny_model("llama")


def test_the_list_of_methods_is_whole() -> None:
    found = {kind.__name__ for kind in Method.__subclasses__()}
    assert found == set(NAMES)
    assert found < set(methods.__all__)


def test_methods_are_frozen_values(method: Method) -> None:
    assert is_dataclass(method)
    with pytest.raises(FrozenInstanceError):
        method.seed = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_methods_say_where_they_come_from_and_what_they_need(method: Method) -> None:
    assert method.source
    assert method.needs


def test_fitting_gives_a_plan_of_the_methods_name(
    method: Method, model: Model, letters: Contrast
) -> None:
    plan = method.fit(model, letters)
    assert plan.name == method.name
    assert bool(plan.edits) != bool(plan.prompt_edits)


def test_the_bare_module_fits_as_well(method: Method, model: Model, letters: Contrast) -> None:
    assert len(method.fit(model.hf, letters).edits) == len(method.fit(model, letters).edits)


def test_no_strength_is_no_plan(method: Method, model: Model, letters: Contrast) -> None:
    plan = method.fit(model, letters)
    before = model.generate(TEXT, max_new_tokens=6)
    with (plan * 0.0).on(model):
        assert model.generate(TEXT, max_new_tokens=6) == before


def test_nothing_is_left_behind(method: Method, model: Model, letters: Contrast) -> None:
    batch = model.tokenize(TEXT)
    before = model.forward(batch)
    plan = method.fit(model, letters)
    with plan.on(model):
        model.generate(TEXT, max_new_tokens=4)
    assert torch.equal(model.forward(batch), before)


def test_plans_survive_a_folder(
    method: Method, model: Model, letters: Contrast, tmp_path: Path
) -> None:
    plan = method.fit(model, letters)
    plan.save(tmp_path / "plan", model)
    loaded = Plan.load(tmp_path / "plan", model)
    texts = []
    for each in (plan, loaded):
        with each.on(model):
            texts.append(model.generate(TEXT, max_new_tokens=8))
    assert texts[0] == texts[1]
