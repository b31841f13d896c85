"""`saesteer plan ...`, end to end on a small model in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from saesteer import steer
from saesteer.cli import main
from saesteer.steer import Plan


@pytest.fixture
def folder(tiny_model: Any, tmp_path: Path) -> str:
    model = tiny_model("llama")
    model.hf.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    plan = Plan(steer.add_scaled("resid_post.1", torch.eye(32)[0]), strength=0.2, name="east")
    plan.save(tmp_path / "plan")
    return tmp_path / "plan"


def run(tmp_path: Path, *args: str) -> Any:
    file = tmp_path / "out.json"
    assert main([*args, "--json", str(file)]) == 0
    return json.loads(file.read_text())


def test_check_reports_plans_together(tmp_path, folder, saved, capsys) -> None:
    args = ["plan", "check", str(saved), str(saved), "--model", folder, "--prompt", "the rain"]
    found = run(tmp_path, *args)
    assert found["pairs"][0]["cosine"] == pytest.approx(1.0)
    assert found["sites"][0]["dose"] == pytest.approx(0.4, rel=0.05)
    assert "add up" in capsys.readouterr().out


def test_check_refuses_an_absurd_dose_unless_told(tmp_path, folder, saved, capsys) -> None:
    Plan.load(saved).with_strength(3.0).save(tmp_path / "wild")
    args = ["plan", "check", str(tmp_path / "wild"), "--model", folder]
    assert main(args) == 2
    error = capsys.readouterr().err
    assert error.startswith("saesteer: relative dose 3")
    assert len(error.splitlines()) == 1
    assert main([*args, "--allow-dose"]) == 0


def test_check_refuses_a_plan_that_was_saved_for_another_model(
    tmp_path, folder, saved, tiny_model, capsys
) -> None:
    Plan.load(saved).save(tmp_path / "other", tiny_model("gpt2"))
    args = ["plan", "check", str(saved), str(tmp_path / "other"), "--model", folder]
    assert main(args) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'other'} was made for" in error
    assert "with other weights" in error


def test_show_needs_no_model(tmp_path, saved, capsys) -> None:
    told = run(tmp_path, "plan", "show", str(saved))
    assert (told["name"], told["strength"]) == ("east", 0.2)
    assert told["edits"][0]["where"] == "Generated"
    assert "resid_post.1" in capsys.readouterr().out


def test_show_leaves_out_no_kind_of_act(tmp_path, capsys) -> None:
    weight = steer.WeightEdit("lm_head.weight", torch.ones(3, 1), torch.ones(1, 2))
    Plan(weight, steer.Backtrack(n=2), steer.PromptEdit(prefix="Be kind.")).save(tmp_path / "all")
    told = run(tmp_path, "plan", "show", str(tmp_path / "all"))["others"]
    assert told[:2] == ["change lm_head.weight by rank 1", "take back 2 tokens"]
    assert "Be kind." in told[2]
    assert "take back 2 tokens" in capsys.readouterr().out


def test_convert_goes_there_and_back(tmp_path, folder, capsys) -> None:
    vector = torch.arange(32.0)
    Plan(steer.add("resid_post.1", vector), strength=0.5).save(tmp_path / "mine")
    there = run(tmp_path, "plan", "convert", str(tmp_path / "mine"), str(tmp_path / "v.gguf"))
    assert "every position" in there["notes"][0]
    args = ["plan", "convert", str(tmp_path / "v.gguf"), str(tmp_path / "back"), "--model", folder]
    assert run(tmp_path, *args)["edits"] == 1
    again = Plan.load(tmp_path / "back")
    assert torch.equal(again.edits[0].intervention.constant(), 0.5 * vector)
    assert again.stamp["model"] == folder


@pytest.mark.parametrize("out", ["plan-v1.2", "v.gguf"])
def test_convert_replaces_nothing_unless_told(tmp_path, out, capsys) -> None:
    for name, factor in (("one", 1.0), ("two", 2.0)):
        Plan(steer.add("resid_post.1", factor * torch.ones(32)), name=name).save(tmp_path / name)
    args = ["plan", "convert", str(tmp_path / "two"), str(tmp_path / out)]
    assert main(["plan", "convert", str(tmp_path / "one"), str(tmp_path / out)]) == 0
    assert main(args) == 2
    assert (
        f"{out} exists; choose another name, or replace it with --force" in capsys.readouterr().err
    )

    def kept() -> float:
        return float(Plan.load(tmp_path / out).edits[0].intervention.constant()[0])

    assert kept() == 1.0
    assert main([*args, "--force"]) == 0
    assert kept() == 2.0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["plan", "show", "nowhere"], "holds no saved plan"),
        (["plan", "convert", "nowhere.gguf", "x"], "holds no saved plan"),
        (["plan", "push", "PLAN", "no-owner"], "no repository"),
        (["plan", "push", "PLAN", "a/b", "--score", "x"], "expected NAME=VALUE"),
        (["plan", "convert", "PLAN", "x.pth"], "no kind that is written"),
        (["plan", "convert", "PLAN", "x.gguf"], "is no fixed vector"),
    ],
)
def test_mistakes_are_one_line(saved, args, words, capsys) -> None:
    assert main([str(saved) if a == "PLAN" else a for a in args]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
