"""`train method`: the same plan as `fit`, and a stopped run that ends in the same bits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saesteer.config import TrainMethodConfig, WandbConfig, dump_config, load_config
from saesteer.data.contrast import Contrast
from saesteer.errors import CheckpointError, ConfigError, OutputError
from saesteer.methods import LoReFT
from saesteer.models import Model
from saesteer.steer import Plan
from saesteer.training import StopRequest, train_method
from saesteer.training.checkpoint import write_checkpoint
from saesteer.training.folder import state_of
from saesteer.training.method import MethodTrainer


@pytest.fixture(scope="module")
def contrast(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of letters."""
    path = tmp_path_factory.mktemp("contrast") / "letters.jsonl"
    lines = [
        {"text": text, "label": label, "pair": str(i)}
        for i in range(10)
        for text, label in ((f"aa ee {i} aaa", 1), (f"zz xx {i} zzz", 0))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def settings(contrast: str) -> Callable[..., TrainMethodConfig]:
    def make(method: Any = None, **changes: Any) -> TrainMethodConfig:
        usual: dict[str, Any] = {"checkpoint_every_steps": 4, "device": "cpu"}
        usual |= {"contrast": contrast, "model": "tiny-llama"}
        method = method or {"LoReFT": {"n_steps": 10, "batch_size": 3}}
        return TrainMethodConfig(method, **{**usual, **changes})

    return make


@pytest.fixture
def run(tiny_model: Callable[[str], Model]) -> Callable[..., Path | None]:
    def train(config: TrainMethodConfig, out: Path, *, resume: bool = False, stop_at: int = -1):
        stop = StopRequest()

        def progress(step: int, _steps: int, _figures: Any) -> None:
            if step == stop_at:
                stop.signal = 15

        model = tiny_model("llama")
        return train_method(config, out, resume=resume, model=model, stop=stop, progress=progress)

    return train


def bits(out: Path) -> bytes:
    return (out / "plan" / "tensors.safetensors").read_bytes()


def figures(out: Path) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "step" in line]


def test_training_gives_the_plan_that_fit_gives(
    run: Any, settings: Any, contrast: str, tiny_model: Any, tmp_path: Path
) -> None:
    model = tiny_model("llama")
    assert run(settings(), tmp_path / "run") == tmp_path / "run" / "plan"
    loaded: Any = Plan.load(tmp_path / "run" / "plan", model).edits[0].intervention
    method = LoReFT(n_steps=10, batch_size=3)
    fitted: Any = method.fit(model, Contrast.read(contrast)).edits[0].intervention
    for part in ("read", "bias", "write"):
        assert torch.equal(getattr(loaded, part), getattr(fitted, part))
    lineage = json.loads((tmp_path / "run" / "plan" / "lineage.json").read_text())
    assert lineage["kind"] == "plan"
    assert set(lineage["sha256"]) == {"manifest.json", "tensors.safetensors"}
    assert [line["step"] for line in figures(tmp_path / "run")] == list(range(1, 11))
    kept = load_config(TrainMethodConfig, tmp_path / "run" / "config.resolved.yaml")
    assert kept == settings()


@pytest.mark.parametrize("stops", [(1,), (4, 7)], ids=str)
@pytest.mark.parametrize("name", ["LoReFT", "RePS", "LinEAS", "Controller", "ReFTr1"])
def test_a_resumed_run_ends_in_the_same_bits(
    run: Any, settings: Any, tmp_path: Path, name: str, stops: tuple[int, ...]
) -> None:
    config = settings({name: {"n_steps": 10, "batch_size": 3}})
    run(config, tmp_path / "whole")
    out = tmp_path / "stopped"
    for resume, stop_at in enumerate(stops):
        assert run(config, out, resume=bool(resume), stop_at=stop_at) is None
        assert (out / "checkpoints" / f"step-{stop_at:08d}").is_dir()
        assert not (out / "plan").exists()
    assert run(config, out, resume=True) == out / "plan"
    assert bits(out) == bits(tmp_path / "whole")
    assert figures(out) == figures(tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(run: Any, settings: Any, tmp_path: Path) -> None:
    run(settings(), tmp_path / "run")
    before = bits(tmp_path / "run"), figures(tmp_path / "run")
    assert run(settings(), tmp_path / "run", resume=True) == tmp_path / "run" / "plan"
    assert (bits(tmp_path / "run"), figures(tmp_path / "run")) == before


def test_other_settings_and_finished_folders_are_refused(
    run: Any, settings: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(settings(), out, stop_at=4)
    with pytest.raises(OutputError, match="already holds a run; pass --resume"):
        run(settings(), out)
    other = settings({"LoReFT": {"n_steps": 10, "batch_size": 3, "lr": 0.5}})
    with pytest.raises(CheckpointError, match=r"method\.LoReFT\.lr: None then, 0\.5 now"):
        run(other, out, resume=True)
    assert run(settings(log_every_steps=5), out, resume=True) is not None


@pytest.fixture
def texts_of(tmp_path: Path) -> Callable[[str], str]:
    """Writes one file of letters again and again, about another letter each time."""

    def write(letter: str) -> str:
        sides = ((f"{letter} ee", 1), ("zz xx", 0))
        rows = [{"text": f"{text} {i}", "label": label} for i in range(10) for text, label in sides]
        lines = [json.dumps(row) + "\n" for row in rows]
        (tmp_path / "changing.jsonl").write_text("".join(lines))
        return str(tmp_path / "changing.jsonl")

    return write


@pytest.mark.parametrize("key", ["contrast", "condition"])
def test_texts_that_changed_are_refused(
    run: Any, settings: Any, tmp_path: Path, texts_of: Any, key: str
) -> None:
    path, steps = texts_of("a"), {"n_steps": 10, "batch_size": 3}
    config = {
        "contrast": settings({"Controller": steps}, contrast=path),
        "condition": settings({"Controller": {**steps, "condition": path}}),
    }[key]
    assert run(config, tmp_path / "run", stop_at=4) is None
    texts_of("b")
    with pytest.raises(CheckpointError, match=f"was written with another {key}; put back what it"):
        run(config, tmp_path / "run", resume=True)
    texts_of("a")
    assert run(config, tmp_path / "run", resume=True) is not None


def test_an_sae_that_no_learned_method_reads_is_refused(settings: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"sae: no learned method reads features; leave 'any' out"
    ):
        settings(sae="any")


def test_a_checkpoint_that_does_not_say_what_it_learned_from_resumes(
    run: Any, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(MethodTrainer, "save", save_as_before)
        assert run(settings(), tmp_path / "run", stop_at=4) is None
    assert run(settings(), tmp_path / "run", resume=True) is not None


def save_as_before(self: MethodTrainer, folder: Path) -> Path:
    parts = self.step_count, state_of(self), {}, self.learner.state(), 2
    return write_checkpoint(folder / "checkpoints", *parts)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("CAA", "method: 'CAA' is not learned; learned methods are "),
        ("Nothing", "method: 'Nothing' is unknown; learned methods are "),
        ({"LoReFT": {"rank": 3}}, r"method: LoReFT has no setting \['rank'\]"),
        ({"LoReFT": {"n_steps": 0}}, "LoReFT: n_steps is 0, expected 1 or more"),
    ],
)
def test_methods_that_can_t_be_trained_are_refused_and_leave_nothing(
    run: Any, settings: Any, tmp_path: Path, method: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(settings(method), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_site_for_a_method_that_takes_none_is_refused(
    run: Any, settings: Any, tmp_path: Path
) -> None:
    config = settings({"LinEAS": {"n_steps": 2}}, site="resid_post.1")
    with pytest.raises(ConfigError, match="LinEAS acts at places of its own; leave site out"):
        run(config, tmp_path / "run")
    assert run(replace(config, site=None), tmp_path / "run") is not None


def test_two_methods_in_one_config_are_refused(settings: Any) -> None:
    with pytest.raises(ConfigError, match="must be one name with its settings"):
        settings({"LoReFT": {}, "RePS": {}})


def test_an_offline_wandb_run_lies_beside_the_plan(run: Any, settings: Any, tmp_path: Path) -> None:
    run(settings(wandb=WandbConfig(project="tests")), tmp_path / "run")
    (kept,) = (tmp_path / "run").glob("wandb/offline-run-*/*.wandb")
    assert kept.stat().st_size > 0


def test_the_config_that_ships_is_read() -> None:
    root = Path(__file__).parents[2]
    config = load_config(TrainMethodConfig, root / "configs" / "train" / "controller.yaml")
    assert config.method_name == "Controller"
    prompts = Contrast.read(root / config.settings["condition"])
    assert len(prompts.positives) == len(prompts.negatives) == 30


def test_sigterm_saves(settings: Any, tiny_model: Any, tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.hf.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    slow = settings({"LoReFT": {"n_steps": 100_000}}, checkpoint_every_steps=100_000)
    path, out = tmp_path / "config.yaml", tmp_path / "run"
    path.write_text(dump_config(slow).replace("tiny-llama", str(tmp_path / "model")))
    command = [sys.executable, "-m", "saesteer", "train", "method", str(path), "--out", str(out)]
    with subprocess.Popen([*command, "--quiet"], cwd=Path(__file__).parents[2],
                          stderr=subprocess.PIPE, text=True) as process:  # fmt: skip
        deadline = time.monotonic() + 200
        while not (out / "metrics.jsonl").exists() or len(figures(out)) < 3:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after a checkpoint" in told
    (kept,) = (out / "checkpoints").iterdir()
    assert int(kept.name.removeprefix("step-")) == len(figures(out))
