"""A saved plan is the same plan, and a damaged or foreign folder is one clear error."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saesteer import steer
from saesteer.errors import DimensionError, OutputError, PlanError, SiteError
from saesteer.models import Model, Site
from saesteer.steer import Edit, Plan, PromptEdit

VECTOR = torch.randn(32, generator=torch.Generator().manual_seed(0))


def whole_plan(model: Model, sae: Any) -> Plan:
    """One of everything that can be saved."""
    topk = replace(sae, activation="topk", k=8)
    return Plan(
        steer.add("resid_post.1", VECTOR),
        steer.add_scaled("resid_post.1", VECTOR, typical_norm=4.5),
        steer.project_out("resid_pre.2", VECTOR),
        steer.affine("resid_post.1", torch.eye(32) * 1.1, VECTOR),
        Edit(steer.clamp(sae, [3, 7], [1.0, 6.0]), where=steer.prompt(special=True)),
        Edit(steer.scale(sae, 9, 2.0), where=steer.positions([1, 4]), strength=0.3),
        Edit(steer.ablate(sae, 2), where=steer.spans("rain"), schedule=steer.decay(3.0)),
        Edit(steer.feature_add(sae, 4, 1.5), where=steer.first(2), schedule=steer.constant()),
        Edit(steer.clamp(topk, 5, 2.0), where=steer.all()),
        Edit(steer.replace(sae), where=steer.last()),
        PromptEdit(prefix="the "),
        strength=0.7,
        name="everything",
    )


def parts(value: Any) -> Any:
    """A value as nested plain data, tensors as lists."""
    match value:
        case Tensor():
            return ["tensor", str(value.dtype), value.tolist()]
        case tuple() | list():
            return [parts(v) for v in value]
        case Site() | str() | int() | float() | None | dict():
            return value
    assert is_dataclass(value)
    return [type(value).__name__, *(parts(getattr(value, f.name)) for f in fields(value))]


@pytest.fixture
def saved(tiny_model: Any, tiny_sae: Any, tmp_path: Path) -> tuple[Model, Plan, Path]:
    model = tiny_model("llama")
    plan = whole_plan(model, tiny_sae(model, "resid_post.2"))
    plan.save(tmp_path / "plan", model)
    return model, plan, tmp_path / "plan"


def test_what_is_loaded_equals_what_was_saved(saved: tuple[Model, Plan, Path]) -> None:
    model, plan, folder = saved
    again = Plan.load(folder, model)
    assert (again.name, again.strength) == (plan.name, plan.strength)
    assert parts(again.edits) == parts(plan.edits)
    assert again.prompt_edits == plan.prompt_edits
    assert again.stamp["weights"] == model.fingerprint()


def test_a_loaded_plan_does_the_same_bit_for_bit(saved: tuple[Model, Plan, Path]) -> None:
    model, plan, folder = saved
    outputs = []
    for one in (plan, Plan.load(folder)):
        with one.on(model, prompt_lengths=3), torch.no_grad():
            outputs.append(model.hf(torch.tensor([[5, 6, 7, 8]])).logits)
    assert torch.equal(*outputs)


def test_saving_again_gives_the_same_bytes_and_keeps_the_stamp(
    saved: tuple[Model, Plan, Path], tmp_path: Path
) -> None:
    _, _, folder = saved
    Plan.load(folder).save(tmp_path / "again")
    for name in ("manifest.json", "tensors.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_another_model_is_refused(saved: tuple[Model, Plan, Path], tiny_model: Any) -> None:
    _, _, folder = saved
    with pytest.raises(PlanError, match="other weights"):
        Plan.load(folder, tiny_model("qwen2"))


def test_a_plan_is_checked_against_the_model(tiny_model: Any, tmp_path: Path) -> None:
    Plan(steer.add("resid_post.9", VECTOR)).save(tmp_path / "a")
    Plan(steer.add("resid_post.1", VECTOR[:5])).save(tmp_path / "b")
    with pytest.raises(SiteError, match="layers 0-3"):
        Plan.load(tmp_path / "a", tiny_model("llama"))
    with pytest.raises(DimensionError, match="width 5"):
        Plan.load(tmp_path / "b", tiny_model("llama"))


def test_a_plan_may_be_saved_over_a_plan_and_nothing_else(tmp_path: Path) -> None:
    plan = Plan(steer.add("resid_post.1", VECTOR))
    plan.save(tmp_path / "plan")
    plan.save(tmp_path / "plan")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="no saved plan"):
        plan.save(tmp_path / "other")
    assert (tmp_path / "other" / "letter.txt").read_text() == "dear"
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="no saved plan"):
        plan.save(tmp_path / "file")
    with pytest.raises(OutputError, match="can't be written"):
        plan.save(tmp_path / "file" / "below")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "other", "plan"]


def test_a_plan_that_can_t_replace_an_older_one_leaves_it(tmp_path: Path, monkeypatch) -> None:
    old, new = (Plan(steer.add("resid_post.1", VECTOR), name=name) for name in ("old", "new"))
    old.save(tmp_path / "plan")
    put = os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target) == tmp_path / "plan" and not str(source).endswith(".old"):
            raise OSError(28, "No space left on device")
        put(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"can't be written \(No space"):
        new.save(tmp_path / "plan")
    assert Plan.load(tmp_path / "plan").name == "old"


def test_a_plan_is_saved_to_where_a_link_leads(tmp_path: Path) -> None:
    old, new = (Plan(steer.add("resid_post.1", VECTOR), name=name) for name in ("old", "new"))
    old.save(tmp_path / "plan")
    (tmp_path / "link").symlink_to("plan")
    new.save(tmp_path / "link")
    assert Plan.load(tmp_path / "plan").name == "new"


def test_another_tokenizer_is_refused(tiny_model: Any, tmp_path: Path) -> None:
    model = tiny_model("llama")
    Plan(steer.add("resid_post.1", VECTOR)).save(tmp_path / "plan", model)
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.add_tokens(["sunshine"])
    Plan.load(tmp_path / "plan", replace(model))
    with pytest.raises(PlanError, match="with other tokenizer"):
        Plan.load(tmp_path / "plan", replace(model, tokenizer=tokenizer))


@dataclass(frozen=True)
class Strange:
    """A gate that nobody registered."""

    sites: tuple[Site, ...] = ()

    def new_state(self) -> object:
        return None

    def open(self, readings: Any, frame: Any, state: Any) -> Tensor:
        return torch.ones_like(frame.valid)


def test_unknown_kinds_can_t_be_saved_until_they_are_registered(tmp_path: Path) -> None:
    from saesteer.steer import kinds

    plan = Plan(steer.add("resid_post.1", VECTOR), gate=Strange((Site(0, "resid_pre"),)))
    with pytest.raises(PlanError, match="a Strange can't be saved"):
        plan.save(tmp_path / "plan")
    assert list(tmp_path.iterdir()) == []
    try:
        assert steer.register_kind(Strange) is Strange
        plan.save(tmp_path / "plan")
        assert Plan.load(tmp_path / "plan").edits[0].gate == plan.edits[0].gate
    finally:
        kinds._KINDS.pop("Strange")
    with pytest.raises(PlanError, match="unknown kind 'Strange'"):
        Plan.load(tmp_path / "plan")
    with pytest.raises(PlanError, match="can't be registered"):
        steer.register_kind(int)
