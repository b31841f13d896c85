"""Bad input, in tables: one clear error each, nothing left hooked, nothing half-written.

Values are held against the model. That a caller's types are right is mostly the type checker's
business; what files hold is checked for types too (`test_bad_files`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from bad_files import VECTOR, of_another_width
from laws import fresh
from method_cases import CASES, LETTERS, fitted
from refusals import Error, Place, refused

from saesteer import steer
from saesteer.data.contrast import Contrast
from saesteer.errors import (
    ContrastError,
    DataError,
    DimensionError,
    FeatureError,
    ModelError,
    PlanError,
    SiteError,
)
from saesteer.methods.named import METHODS
from saesteer.models import Model, Site
from saesteer.saes import SAE
from saesteer.steer import Plan, WeightEdit

AT_1, NAN, IDS = "resid_post.1", float("nan"), torch.tensor([[5, 6, 7, 8]])


def any_of(value: Any) -> Any:
    """A value of a type that the type checker would refuse."""
    return value


def attached(site: str, vector: torch.Tensor) -> Callable[[Place], Any]:
    return lambda p: Plan(steer.add(site, vector)).attach(p.model)


def adding(vector: torch.Tensor) -> Callable[[Place], Any]:
    return lambda _: steer.add(AT_1, vector)


def read(lengths: Any = None, **inputs: Any) -> Callable[[Place], Any]:
    def call(p: Place) -> None:
        with Plan(steer.add(AT_1, VECTOR)).on(p.model, prompt_lengths=lengths):
            p.model.hf(**{"input_ids": IDS, **inputs})

    return call


VALUES: list[tuple[str, Callable[[Place], Any], Error, str]] = [
    ("vector of two axes", adding(torch.ones(2, 32)), DimensionError, "expected one vector"),
    ("vector of no entries", adding(torch.ones(0)), DimensionError, "expected one vector"),
    ("vector of integers", adding(torch.ones(32).long()), PlanError, "got a tensor of torch.int64"),
    ("complex vector", adding(VECTOR.to(torch.complex64)), PlanError, "of torch.complex64"),
    ("sparse vector", lambda _: steer.add(AT_1, VECTOR.to_sparse()), PlanError, "torch.sparse_coo"),
    ("vector on no device", adding(torch.ones(32, device="meta")), PlanError, "on meta"),
    ("NaN in a vector", adding(VECTOR * NAN), PlanError, "holds NaN or infinity"),
    ("too large for fp32", adding(VECTOR.double() * 1e39), PlanError, "holds NaN or infinity"),
    ("another width", attached(AT_1, torch.ones(7)), DimensionError, "made for width 7"),
    ("a head's width", attached("head_out.1.2", VECTOR), DimensionError, "has width 8 at head_out"),
    ("no such layer", attached("resid_post.40", VECTOR), SiteError, "layers 0-3"),
    ("no such head", attached("head_out.1.9", torch.ones(8)), SiteError, "heads 0-3"),
    ("no such place", attached("router_in.1", VECTOR), SiteError, "no mixture of experts"),
    ("no site at all", attached("residual.1", VECTOR), SiteError, r"write KIND\.LAYER"),
    ("a head of no heads", lambda _: Site(1, "resid_post", 2), SiteError, "is not a site"),
    ("norm of 0", lambda _: steer.add_scaled(AT_1, VECTOR, 0.0), PlanError, "typical_norm is 0"),
    ("norm of NaN", lambda p: steer.replace(p.sae, NAN), PlanError, "typical_norm is nan"),
    ("zero direction", lambda _: steer.project_out(AT_1, 0 * VECTOR), PlanError, "span fewer"),
    (
        "dependent directions",
        lambda _: steer.project_out(AT_1, torch.stack([VECTOR, 2 * VECTOR])),
        PlanError,
        "span fewer",
    ),
    (
        "directions of three axes",
        lambda _: steer.project_out(AT_1, torch.ones(2, 2, 32)),
        DimensionError,
        r"got shape \[2, 2, 32\]",
    ),
    (
        "unfitting maps",
        lambda _: steer.affine(AT_1, torch.eye(3), VECTOR),
        DimensionError,
        "don't fit together",
    ),
    ("feature below 0", lambda p: steer.clamp(p.sae, -1, 1.0), FeatureError, "does not exist"),
    ("feature beyond", lambda p: steer.clamp(p.sae, 96, 1.0), FeatureError, "features 0–95"),
    ("no features", lambda p: steer.ablate(p.sae, []), PlanError, "give one or more"),
    ("a feature twice", lambda p: steer.ablate(p.sae, [3, 3]), PlanError, "each of them once"),
    ("too few amounts", lambda p: steer.scale(p.sae, [1, 2, 3], [1, 2]), PlanError, "2 values for"),
    ("infinite amount", lambda p: steer.clamp(p.sae, 1, 1e39), PlanError, "not finite"),
    (
        "an SAE of another width",
        lambda p: Plan(steer.clamp(of_another_width(p.sae), 3, 1.0)).attach(p.model),
        DimensionError,
        "made for width 64",
    ),
    ("a vector of words", lambda _: steer.add(AT_1, ["x"]), PlanError, "expected a tensor"),
    ("half of the first", lambda _: steer.first(any_of(1.5)), PlanError, "1 or more"),
    ("a number for a text", lambda _: steer.spans(any_of(3)), PlanError, "text to look for"),
    ("no gate to hold", lambda _: steer.latched(any_of(None)), PlanError, "expected a gate"),
    ("prompt lengths as text", read("3"), PlanError, "'3': give tokens per row"),
    ("first none", lambda _: steer.first(0), PlanError, "1 or more"),
    ("no positions", lambda _: steer.positions([]), PlanError, "0 or more"),
    ("negative position", lambda _: steer.positions([2, -1]), PlanError, r"use last\(\)"),
    ("no text", lambda _: steer.spans(""), PlanError, "text to look for"),
    ("no such role", lambda _: steer.chat("robot"), PlanError, "system, user, assistant"),
    ("NaN strength", lambda _: Plan(strength=NAN), PlanError, "not a finite number"),
    ("infinite strength", lambda _: Plan() * float("inf"), PlanError, "not a finite number"),
    ("no half-life", lambda _: steer.decay(0), PlanError, "half_life is 0"),
    ("endless slope", lambda _: steer.linear(3, float("inf")), PlanError, "finite end"),
    ("no prompt lengths", read(), PlanError, "where the prompt ends"),
    ("prompt lengths of 0", read([0]), PlanError, "1 or more each"),
    ("prompt lengths of 1.5", read(torch.tensor([1.5])), PlanError, "1 or more each"),
    ("prompt lengths of others", read([1, 1, 1]), PlanError, "are for 3 rows"),
    ("ids of one axis", read(1, input_ids=IDS[0]), PlanError, r"a pass over \[4\]"),
    ("a mask of others", read(1, attention_mask=torch.ones(2, 4)), PlanError, "has 2 rows"),
    ("too short a mask", read(1, attention_mask=torch.ones(1, 3)), PlanError, "covers 3 columns"),
    ("no text to write on", lambda p: p.model.generate(""), DataError, "without tokens"),
    (
        "no such parameter",
        lambda p: Plan(WeightEdit("../../norm", VECTOR)).attach(p.model),
        PlanError,
        "no parameter of this model",
    ),
    (
        "a parameter's shape",
        lambda p: Plan(WeightEdit("model.norm.weight", torch.ones(3))).attach(p.model),
        DimensionError,
        r"shape \[3\], expected \[32\]",
    ),
    ("no model", lambda _: Plan().attach(torch.nn.Linear(3, 3)), ModelError, "has no config"),
]


@pytest.mark.parametrize(
    ("call", "error", "words"), [v[1:] for v in VALUES], ids=[v[0] for v in VALUES]
)
def test_values_that_mean_nothing(
    place: Place, call: Callable[[Place], Any], error: Error, words: str
) -> None:
    refused(place, partial(call, place), error, words)


def told(**changes: Any) -> Contrast:
    """The letters with these fields of every example changed, by its label."""
    examples = [
        replace(e, **{name: change(e.label) for name, change in changes.items()})
        for e in LETTERS.examples
    ]
    return Contrast(tuple(examples), name="letters")


def alike_in(split: str) -> Contrast:
    """The letters, but for one text that stands on both sides of one split."""
    examples = [replace(e, text="rain") if e.split == split else e for e in LETTERS.examples]
    return Contrast(tuple(examples), name="letters")


class Fit(NamedTuple):
    """A method's fit with one thing wrong."""

    contrast: Contrast = LETTERS
    site: str | None = None
    model: Callable[[Model], Model] = lambda model: model
    sae: Callable[[SAE], SAE] = lambda sae: sae


@torch.no_grad()
def broken(model: Model) -> Model:
    """A copy with a NaN among its weights."""
    copied = fresh(model)
    copied.layout.blocks[0].self_attn.o_proj.weight[3, 3] = NAN
    return copied


FITS: list[tuple[str, Fit, Error | tuple[Error, ...], str]] = [
    ("no train texts", Fit(told(split=lambda _: "test")), ContrastError, "it has no examples"),
    (
        "one label",
        Fit(told(split=lambda label: "train" if label else "test")),
        ContrastError,
        "all 10 examples have label 1",
    ),
    (
        "no difference",
        Fit(alike_in("train")),
        ContrastError,
        "positives and negatives are the same texts",
    ),
    (
        "no tokens",
        Fit(told(text=lambda _: "", prompt=lambda label: f"{label} ")),
        DataError,
        "has no tokens|has no words",
    ),
    ("too long", Fit(told(text=lambda label: f"{label} rain " * 200)), DataError, "reads at most"),
    ("no such layer", Fit(site="resid_post.40"), SiteError, "layer 40 does not exist"),
    ("no such place", Fit(site="router_in.1"), SiteError, "is no mixture of experts"),
    ("no site", Fit(site="residual.1"), SiteError, r"write KIND\.LAYER"),
    (
        "NaN",
        Fit(model=broken),
        DataError,
        "gives NaN or inf|is nan at step 0; check the",
    ),
    (
        "no tokenizer",
        Fit(model=lambda m: Model(m.hf, None, m.name, m.layout)),
        (ModelError, PlanError),
        "has no tokenizer",
    ),
    ("a wider SAE", Fit(sae=of_another_width), DimensionError, "reads activations of width 64"),
    (
        "an SAE from elsewhere",
        Fit(sae=lambda sae: replace(sae, site=Site(30, "resid_post"))),
        SiteError,
        "layer 30 does not exist",
    ),
]
TEXTS = ("no train texts", "one label", "no difference", "no tokens", "too long")
UNREAD = {
    "MoTE": ("no such place",),  # its model is a mixture
    "Prompting": ("no tokens", "too long", "NaN", "no tokenizer"),  # its words are in the prompt
    "BindingIDs": TEXTS,  # reads its templates
    "SCAR": (*TEXTS, "NaN", "no tokenizer"),
}
"""What a method doesn't look at; SCAR's labels and texts were spent in the training of its SAE."""


def fits() -> list[Any]:
    """Every method with everything that it can be given wrong."""
    found = []
    for name, kind in METHODS.items():
        for what, *row in FITS:
            needs = "sae" in kind.__dataclass_fields__ or "SAE" not in what
            if (
                needs
                and what not in UNREAD.get(name, ())
                and (name, what) != ("MoTE", "no such place")
            ):
                found.append(pytest.param(name, *row, id=f"{name}-{what}"))
    return found


@pytest.mark.parametrize(("name", "fit", "error", "words"), fits())
def test_methods_refuse_what_they_can_t_be_fitted_to(
    place: Place, tiny_model: Any, name: str, fit: Fit, error: Any, words: str
) -> None:
    model = tiny_model("mixtral") if name == "MoTE" else place.model
    sae = fit.sae(place.sae)
    method = CASES[name](sae) if name in CASES else METHODS[name]()
    given = place._replace(model=fit.model(model))
    refused(given, lambda: method.fit(given.model, fit.contrast, fit.site), error, words)


@pytest.mark.parametrize("name", [name for name in METHODS if name in CASES])
def test_a_methods_plan_is_refused_for_another_model(
    place: Place, tiny_model: Any, tiny_sae: Any, name: str
) -> None:
    arch = "mixtral" if name == "MoTE" else "llama"
    fitted(name, tiny_model(arch), tiny_sae).save(place.folder / "plan", tiny_model(arch))
    other = place._replace(model=tiny_model(arch, 1))
    refused(
        other, lambda: Plan.load(place.folder / "plan", other.model), PlanError, "other weights"
    )
