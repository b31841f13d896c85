"""`saesteer train method` and `train controller`, end to end on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saesteer.steer import Plan


@pytest.fixture
def config(disk: Path, tmp_path: Path) -> Path:
    words = ((1, "aa"), (0, "zz"))
    lines = [{"text": f"{w} {i} {w}", "label": n} for i in range(6) for n, w in words]
    (tmp_path / "letters.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = tmp_path / "method.yaml"
    path.write_text(
        f"model: {disk / 'model'}\ncontrast: {tmp_path / 'letters.jsonl'}\nsite: resid_post.1\n"
        "method: {Controller: {n_steps: 4}}\n"
    )
    return path


@pytest.mark.parametrize("verb", ["method", "controller"])
def test_a_controller_is_trained_and_its_plan_loads(
    run: Any, config: Path, tmp_path: Path, verb: str
) -> None:
    out, result = tmp_path / "run", tmp_path / "result.json"
    changed = "method.Controller.n_hidden=8"
    done = run("train", verb, config, changed, "--out", out, "--json", result, "--quiet")
    assert done.status == 0, done.err
    assert done.out.strip() == str(out / "plan")
    assert json.loads(result.read_text()) == {"plan": str(out / "plan")}
    plan: Any = Plan.load(out / "plan")
    assert len(plan.edits) == 3
    assert plan.edits[0].schedule.hidden.shape == (8, 32)
    again = run("train", verb, config, changed, "--out", out, "--quiet")
    assert (again.status, "already holds a run; pass --resume" in again.err) == (2, True)


def test_the_alias_is_for_controllers_alone(run: Any, config: Path, tmp_path: Path) -> None:
    config.write_text(config.read_text().replace("Controller: {n_steps: 4}", "LoReFT: {}"))
    done = run("train", "controller", config, "--out", tmp_path / "run")
    assert done.status == 2
    assert "its method is LoReFT; for others than Controller use saesteer train method" in done.err
