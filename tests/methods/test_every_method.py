"""Laws of every method: one seam, a name, a plan that can be scaled, saved and undone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import FrozenInstanceError, is_dataclass, replace
from inspect import getsourcefile, isabstract
from pathlib import Path
from typing import Any

import pytest
import torch
from donor import donor

from saesteer.data.contrast import Contrast
from saesteer.errors import ContrastError, SiteError
from saesteer.methods import LearnedMethod, Method
from saesteer.methods.named import METHODS
from saesteer.models import Model
from saesteer.saes import SAE
from saesteer.steer import Plan
from saesteer.steer.store import digest_of

TEXT = "some words of no kind"
NAMES = sorted(METHODS)
SETTINGS: Mapping[str, Callable[[], Mapping[str, Any]]] = {
    "CommandV": lambda: dict(zip(("donor", "plan"), donor(), strict=True)),
    "SAETS": lambda: {"n_vectors": 4, "n_tokens": 2},
}
"""What a method has no default for, and what makes it quick enough for eight tests."""


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(name: str, tiny_model: Callable[[str], Model]) -> Model:
    return tiny_model("mixtral" if name == "MoTE" else "llama")


@pytest.fixture
def method(name: str, tiny_sae: Callable[..., SAE], model: Model) -> Method:
    kind = METHODS[name]
    settings = dict(SETTINGS.get(name, dict)())
    if "sae" in kind.__dataclass_fields__:
        supervised = {"supervised_latent": 3}
        settings["sae"] = replace(tiny_sae(model, "resid_post.1"), metadata=supervised)
    if issubclass(kind, LearnedMethod):
        settings["n_steps"] = 3
    return kind(**settings)


def test_the_list_of_methods_is_whole() -> None:
    found = {kind.__name__ for kind in kinds(Method) if not isabstract(kind)}
    assert found == set(NAMES)


def test_a_method_is_one_short_file(name: str) -> None:
    file = Path(str(getsourcefile(METHODS[name])))
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 120


def test_the_name_of_a_contrast_is_no_contrast(method: Method, model: Model) -> None:
    fit: Any = method.fit
    with pytest.raises(ContrastError, match=r"a str is no contrast; .*read\('politeness'\)"):
        fit(model, "politeness")


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
    assert plan.acts


def test_the_bare_module_fits_as_well(method: Method, model: Model, letters: Contrast) -> None:
    assert len(method.fit(model.hf, letters).acts) == len(method.fit(model, letters).acts)


def test_a_site_makes_another_plan_unless_the_method_says_that_it_takes_none(
    method: Method, model: Model, letters: Contrast
) -> None:
    if hasattr(method, "sae"):
        pytest.skip("its SAE tells the site")
    told = [method.fit(model, letters, f"resid_post.{layer}") for layer in (2, 3)]
    assert (digest_of(told[0]) != digest_of(told[1])) == method.takes_site


def test_features_act_where_their_sae_reads_and_nowhere_else(
    method: Method, model: Model, letters: Contrast
) -> None:
    if not hasattr(method, "sae"):
        pytest.skip("it has no SAE")
    assert not method.takes_site
    for edit in method.fit(model, letters, "resid_post.1").edits:
        assert str(edit.intervention.site) == "resid_post.1"
    told = r"site is resid_post\.2, but SAE .* is of resid_post\.1, .*; leave site out, or give"
    with pytest.raises(SiteError, match=told):
        method.fit(model, letters, "resid_post.2")


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


def kinds(of: type[Method]) -> Iterator[type[Method]]:
    """Every class of methods of this package, abstract ones among them."""
    for kind in of.__subclasses__():
        if kind.__module__.startswith("saesteer."):
            yield kind
        yield from kinds(kind)
