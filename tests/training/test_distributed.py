"""Several real processes train as one: equal on every one, exact on resume, in any number.

Each launch is torchrun's own, over gloo; the runs of one launch share its start.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saesteer.config import CacheConfig, TrainSAEConfig, dump_config
from saesteer.errors import ConfigError
from saesteer.training.checkpoint import open_checkpoint
from saesteer.training.distributed import World, join_world
from saesteer.training.learner import Learner
from saesteer.training.sae import open_trainer
from saesteer.training.streams import columns_of, open_stream

ROOT = Path(__file__).parents[2]
WORKER = str(Path(__file__).with_name("worker.py"))
MANY = {"a": {"k": 3}, "b": {"k": 8, "d_sae": 96}, "c": {"site": "resid_post.0", "seed": 2}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model) -> Path:
    """Where the processes find the model, and leave their runs."""
    folder, model = tmp_path_factory.mktemp("world"), tiny_model("llama")
    model.hf.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    return folder


def torchrun(n: int, *command: str) -> subprocess.Popen:
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
    return subprocess.Popen(
        [sys.executable, *start, *command],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_jobs(folder: Path, n: int, configs: dict[str, TrainSAEConfig], jobs: list[dict]) -> None:
    for name, config in configs.items():
        on_disk = replace(config, model=str(folder / "model"))
        (folder / f"{name}.yaml").write_text(dump_config(on_disk))
    (folder / "jobs.json").write_text(json.dumps(jobs))
    process = torchrun(n, WORKER, str(folder))
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output


@pytest.fixture(scope="module")
def two(folder, settings) -> Path:
    """What two processes leave of the runs that the fast tests read."""
    configs = {
        "alike": settings(),
        "rows": settings(arch="topk"),
        "whole": settings(),
        "stopped": settings(),
        "many": settings(variants=MANY),
        "moved": settings(variants={name: MANY[name] for name in "cb"}),
    }
    jobs = [
        {"name": "alike", "n_steps": 12},
        {"name": "rows", "n_steps": 12},
        {"name": "many", "n_steps": 12},
        {"name": "whole"},
        {"name": "stopped", "stop_at": 13},
        {"name": "stopped", "resume": True},
        {"name": "many", "stop_at": 17},
        {"name": "many", "resume": True},
        {"name": "moved"},
    ]
    run_jobs(folder, 2, configs, jobs)
    return folder


def weights_of(out: Path) -> bytes:
    return (out / "sae_weights.safetensors").read_bytes()


def states_of(folder: Path, name: str) -> list[dict[str, torch.Tensor]]:
    return [load_file(path) for path in sorted(folder.glob(f"{name}-*.safetensors"))]


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def whole_batches(config: TrainSAEConfig, model, size: int, n: int) -> list[torch.Tensor]:
    """The batches of a world, drawn from its streams without its processes."""
    columns = columns_of(config, model)
    streams = [open_stream(config, model, columns, World(rank, size)) for rank in range(size)]
    return [torch.cat([stream.next_batch() for stream in streams]) for _ in range(n)]


def test_an_sae_on_all_processes_is_the_same_bits_on_each(two):
    one, other = states_of(two, "alike")
    assert equal(one, other)
    assert "adam.exp_avg.w_dec" in one
    assert one["firing.last"].max() == 12 * 64


def test_parts_of_a_batch_teach_what_the_whole_batch_does(two, settings, model):
    """Up to the batch's variance, which each part measures for itself."""
    config = settings(arch="topk")
    alone = Learner.create(config, 32, "cpu")
    for batch in whole_batches(config, model, 2, 12):
        alone.step(batch)
    together, whole = states_of(two, "rows")[0], alone.state()
    assert torch.equal(together["coder.input_scale"], whole["coder.input_scale"])
    start = Learner.create(config, 32, "cpu").state()["coder.w_dec"]
    moved = (whole["coder.w_dec"] - start).norm()
    assert (together["coder.w_dec"] - whole["coder.w_dec"]).norm() < 0.1 * moved
    assert (together["firing.last"] == whole["firing.last"]).float().mean() > 0.9


def test_two_processes_learn_as_well_as_one(two, run, settings, tmp_path, figures_of):
    one, both = figures_of(run(settings(), tmp_path / "one")), figures_of(two / "whole")
    assert [line["step"] for line in both] == list(range(1, 31))
    assert [line["n_tokens"] for line in both] == [line["n_tokens"] for line in one]
    assert sum(line["fvu"] for line in both[-8:]) == pytest.approx(
        sum(line["fvu"] for line in one[-8:]), rel=0.1
    )
    assert all(line["l0"] == pytest.approx(4, abs=0.1) for line in both)
    assert both[-1]["n_read"] >= both[-1]["n_tokens"] + 128


@pytest.mark.parametrize("name", [None, *MANY])
def test_a_run_stopped_by_one_of_them_resumes_in_the_same_bits(two, figures_of, name):
    stopped, whole = ("stopped", "whole") if name is None else ("many", "moved")
    assert weights_of(two / stopped / (name or "")) == weights_of(two / whole / (name or ""))
    assert figures_of(two / "stopped") == figures_of(two / "whole")


def test_many_saes_live_on_one_process_each_and_learn_from_the_whole_batch(two, settings, model):
    config = settings(variants=MANY)
    columns = columns_of(config, model)
    homes = {"a": 0, "b": 1, "c": 0}
    batches = whole_batches(config, model, 2, 12)
    for name, each in config.each().items():
        (state,) = states_of(two, f"many-{name}")
        assert (two / f"many-{name}-{homes[name]}.safetensors").exists()
        learner = Learner.create(each, 32, "cpu")
        for batch in batches:
            learner.step(columns.pick(batch, learner.site))
        assert equal(state, learner.state()), name
