"""What a notebook shows of our values: a line, whatever tensors they hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import saesteer as ss
from saesteer import steer
from saesteer.metrics.density import density_of
from saesteer.rules.reading import read_prompt
from saesteer.shown import shown

SITE = ss.Site.parse("mlp_out.2")
ADD = steer.add("resid_post.1", torch.ones(32))


@shown
@dataclass(frozen=True)
class Thing:
    """Some fields."""

    wide: Any
    site: Any = SITE
    names: tuple[str, ...] = ()
    made: list[int] = field(default_factory=list)
    hidden: Any = field(default=None, repr=False)


@pytest.mark.parametrize(
    ("thing", "line"),
    [
        (Thing(torch.ones(3, 4)), "Thing(wide=tensor[3, 4])"),
        (Thing(torch.tensor([1.0, 0.123456])), "Thing(wide=tensor(1, 0.1235))"),
        (Thing(torch.tensor(2)), "Thing(wide=tensor(2))"),
        (Thing(torch.ones(2, device="meta")), "Thing(wide=tensor[2])"),
        (Thing([torch.ones(9)], names=("a",)), "Thing(wide=[tensor[9]], names=('a',))"),
        (Thing(1, site=ss.Site.parse("resid_post.9")), "Thing(wide=1, site=resid_post.9)"),
        (Thing(1, made=[2], hidden=torch.ones(9)), "Thing(wide=1, made=[2])"),
    ],
)
def test_tensors_by_shape_and_no_defaults(thing: Thing, line: str) -> None:
    assert repr(thing) == line


@pytest.mark.parametrize("wide", [tuple(range(1000)), "x" * 1000, {i: i for i in range(1000)}])
def test_what_is_long_is_cut(wide: Any) -> None:
    assert len(repr(Thing(wide))) < 120


def test_plans_say_what_they_do(tiny_model: Any, tiny_sae: Any) -> None:
    clamp = ss.clamp(tiny_sae(tiny_model("llama"), "resid_post.1"), [3, 5], 6.0)
    what = repr(clamp)
    assert what == "<clamp features 3, 5 to 6 at resid_post.1>"
    edit = ss.Edit(clamp, where=ss.first(3), strength=2)
    assert repr(edit) == f"Edit(intervention={what}, where=First(n=3), strength=2.0)"
    assert repr(ss.Plan(edit)) == f"Plan(edits=({edit!r},))"
    named = ss.Plan(clamp, name="mine") * 2
    assert repr(named) == f"Plan(edits=(Edit(intervention={what}),), strength=2.0, name='mine')"


def test_models_saes_and_traces_are_a_line(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    assert repr(model).startswith(f"<Model {model.name}: LlamaForCausalLM, ")
    assert repr(model).endswith(f"of width {model.d_model}, torch.float32 on cpu>")
    sae = tiny_sae(model, "resid_post.1")
    for value in (sae, sae.slice([1, 2]), ss.methods.FeatureSteering(sae)):
        assert len(repr(value)) < 400
        assert "resid_post.1" in repr(value)
    with ss.Plan(ADD, where=steer.all()).on(model) as trace:
        model.hf(torch.tensor([[5, 6, 7]]))
    assert repr(trace) == "<Trace: 3 of 3 positions edited>"


def test_a_trace_names_acts_that_have_no_position(tiny_model: Any) -> None:
    model, name = tiny_model("llama"), "model.layers.1.mlp.down_proj.weight"
    change = torch.ones_like(model.hf.get_parameter(name))
    with ss.Plan(ss.WeightEdit(name, change)).on(model) as trace:
        model.hf(torch.tensor([[5, 6]]))
    told = f"throughout: change {name} by a full matrix, strength 1"
    assert repr(trace) == f"<Trace: 0 of 2 positions edited; {told}>"


def test_a_contrast_shows_its_first_examples() -> None:
    contrast = ss.Contrast.read("politeness")
    assert len(repr(contrast)) < 1500
    assert contrast.examples[0].text in repr(contrast)


def test_what_holds_many_tokens_is_short(tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    sae, text = tiny_sae(model, "resid_post.1"), "the rain in the town " * 9
    concepts = {"rain": {"feature": 3, "threshold": 0.1}}
    book = ss.RuleBook.from_dict({"rules": "wet :- rain.", "concepts": concepts})
    counts = torch.ones(9, dtype=torch.int64)
    values = (
        model.tokenize(text),
        model.layout,
        ss.top_features(model, sae, text),
        density_of(counts, 20),
        read_prompt(book, model, sae, text),
    )
    for value in values:
        assert repr(value).startswith(type(value).__name__)
        assert len(repr(value)) < 1500
        assert "\n" not in repr(value)
