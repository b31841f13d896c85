"""The compiled form of a plan says what the plan says, and turning it compiles nothing again."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from compiled_cases import LATER, LENGTHS, NAMES, SITE, TEXTS, plans, read, vector
from torch import Tensor

from saesteer import steer
from saesteer.errors import DimensionError, PlanError
from saesteer.models import Model, layout_of
from saesteer.steer import Edit, Plan, where

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["llama", "gpt2"])
def model(tiny_model: Callable[[str], Model], request: pytest.FixtureRequest) -> Model:
    return tiny_model(request.param)


FEW = "llama and (scale or several or turning or removing)"
"""Of the default run; compiling a model takes seconds for each law."""


@pytest.mark.parametrize(
    ("chosen", "n"),
    [(FEW, 5), pytest.param("llama or gpt2", 26, marks=pytest.mark.full)],
    ids=["few", "all"],
)
def test_compiled_code_obeys_its_laws(chosen: str, n: int) -> None:
    """`compiled_laws.py`, without the shape checks that the suite puts around functions."""
    options = ["-q", "-x", "-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        *options,
        "-k",
        chosen,
        "tests/steer/compiled_laws.py",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{n} passed" in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_permanent_hooks_equal_the_plan_itself(
    model: Model, tiny_sae: Callable[..., Any], name: str
) -> None:
    plan = plans(model, tiny_sae(model, LATER))[name]
    clean = read(model)
    with plan.on(model, prompt_lengths=LENGTHS):
        expected = read(model)
    with plan.compiled(model, LENGTHS) as steering:
        assert (read(model) - expected).abs().max() <= 1e-5 * expected.abs().max()
        steering.set_strength(0)
        assert torch.equal(read(model), clean)
    assert not torch.equal(expected, clean)


@pytest.mark.parametrize("texts", [TEXTS, ["the rain in"]])
def test_generating_tells_where_the_prompts_end(model: Model, texts: list[str]) -> None:
    """Also with a cache, whose later passes hold one token."""
    plan = Plan(steer.add(SITE, vector(model)), where=where.generated())
    plain = model.generate(texts, max_new_tokens=8)
    with plan.on(model):
        expected = model.generate(texts, max_new_tokens=8)
    own = model.hf.generate
    with plan.compiled(model) as steering:
        assert model.generate(texts, max_new_tokens=8) == expected
        assert steering.prompt_lengths is not None
        assert steering.prompt_lengths.tolist() == model.tokenize(texts).lengths.tolist()
        steering.set_strength(0)
        assert model.generate(texts, max_new_tokens=8) == plain
    assert expected != plain
    assert model.hf.generate == own
    assert "generate" not in model.hf.__dict__


def test_plans_go_in_any_order_and_leave_nothing(model: Model) -> None:
    plan = Plan(steer.add(SITE, vector(model)), where=where.generated())
    plain = model.generate(TEXTS, max_new_tokens=8)
    with plan.on(model):
        expected = model.generate(TEXTS, max_new_tokens=8)

    def compiled() -> Callable[[], None]:
        return plan.compiled(model).remove

    def attached() -> Callable[[], None]:
        plan.attach(model)
        return plan.detach

    for makers in ((compiled, compiled), (attached, compiled), (compiled, attached)):
        (first, second), own = [make() for make in makers], model.hf.__dict__
        first()
        assert model.generate(TEXTS, max_new_tokens=8) == expected
        second()
        assert "generate" not in own
        assert model.generate(TEXTS, max_new_tokens=8) == plain


@pytest.mark.parametrize("form", ["on", "compiled"])
def test_a_generate_of_the_user_s_own_comes_back(model: Model, form: str) -> None:
    calls: list[str] = []

    def wrapped(name: str) -> Callable[..., Any]:
        inner = model.hf.generate

        @functools.wraps(inner)
        def generate(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return inner(*args, **kwargs)

        model.hf.__dict__["generate"] = generate
        return generate

    plan = Plan(steer.add(SITE, vector(model)))
    try:
        own = wrapped("before")
        with getattr(plan, form)(model):
            model.generate("rain", max_new_tokens=1)
        assert model.hf.__dict__["generate"] is own
        with getattr(plan, form)(model):
            on_top = wrapped("after")
        assert model.hf.__dict__["generate"] is on_top
        model.generate("rain", max_new_tokens=1)
    finally:
        del model.hf.__dict__["generate"]
    assert calls == ["before", "after", "before"]


def test_a_copy_made_under_a_compiled_plan_is_steered_as_long(model: Model) -> None:
    plain = model.generate(TEXTS, max_new_tokens=8)
    with Plan(steer.add(SITE, vector(model))).compiled(model):
        expected, hf = model.generate(TEXTS, max_new_tokens=8), deepcopy(model.hf)
        hf.__dict__.pop("_saesteer_model", None)
        copied = Model(hf, model.tokenizer, "copied", layout_of(hf))
        assert hf.generate.owner is hf
        assert copied.generate(TEXTS, max_new_tokens=8) == expected
    assert copied.generate(TEXTS, max_new_tokens=8) == plain


def test_a_static_cache_is_counted_too(model: Model) -> None:
    plan = Plan(steer.add(SITE, vector(model)))
    options = {"max_new_tokens": 8, "cache_implementation": "static", "disable_compile": True}
    with plan.on(model):
        expected = model.generate(TEXTS, **options)
    with plan.compiled(model):
        assert model.generate(TEXTS, **options) == expected


def test_half_precision_is_rounded_once(tiny_model: Callable[[str], Model]) -> None:
    whole = tiny_model("llama")
    hf = deepcopy(whole.hf).to(torch.bfloat16)
    hf.__dict__.pop("_saesteer_model", None)
    model = Model(hf, whole.tokenizer, "half", layout_of(hf))
    plan = Plan(steer.add_scaled(SITE, vector(model), 1.0))
    with plan.on(model, prompt_lengths=LENGTHS):
        expected = read(model)
    with plan.compiled(model, LENGTHS):
        assert torch.equal(read(model), expected)


class _Open:
    """A gate that remembers nothing but is one."""

    sites = ()

    def new_state(self) -> None:
        return None

    def open(self, readings: Any, frame: Any, state: Any) -> Tensor:
        return frame.valid


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda v: Plan(steer.add(SITE, v), gate=_Open()), r"gates \(_Open\)"),
        (lambda v: Plan(steer.add(SITE, v), steer.Stop()), "controls of decoding"),
        (lambda v: Plan(Edit(steer.add(SITE, v), schedule=steer.dial("k"))), "set or read"),
        (lambda v: Plan(steer.add(SITE, v), where=where.spans("rain")), "looked for"),
    ],
)
def test_what_a_graph_cannot_hold_is_refused(model: Model, make: Any, what: str) -> None:
    with pytest.raises(PlanError, match=what):
        make(vector(model)).compiled(model)
    assert "generate" not in model.hf.__dict__


def test_bad_input_is_refused_and_nothing_stays_hooked(model: Model) -> None:
    clean = read(model)
    with pytest.raises(DimensionError, match="made for width 31"):
        Plan(steer.add(SITE, torch.ones(31))).compiled(model)
    with pytest.raises(PlanError, match="edits no activation"):
        Plan().compiled(model)
    with pytest.raises(PlanError, match="1 or more each"):
        Plan(steer.add(SITE, vector(model))).compiled(model, [0])
    with Plan(steer.add(SITE, vector(model))).compiled(model, LENGTHS) as steering:
        with pytest.raises(PlanError, match="not a finite number"):
            steering.set_strength(float("nan"))
        steering.set_prompt_lengths(None)
        with pytest.raises(PlanError, match="where the prompt ends"):
            read(model)
    assert torch.equal(read(model), clean)
