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
N_STEPS = 400
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
        "moved": settings(variants={name: MANY[name] for name in "bc"}),
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


def streams_of(config: TrainSAEConfig, model, size: int) -> list:
    """What the processes of a world read, without them."""
    columns = columns_of(config, model)
    return [open_stream(config, model, columns, World(rank, size)) for rank in range(size)]


def whole_batches(config: TrainSAEConfig, model, size: int, n: int) -> list[torch.Tensor]:
    """The batches of a world, drawn from its streams without its processes."""
    streams = streams_of(config, model, size)
    return [torch.cat([stream.next_batch() for stream in streams]) for _ in range(n)]


def mean_fvu(lines: list[dict]) -> float:
    """Over the last ten steps."""
    return sum(line["fvu"] for line in lines[-10:]) / 10


def test_every_process_shuffles_in_an_order_of_its_own(settings, model):
    orders = []
    for stream in streams_of(settings(), model, 2):
        stream.next_batch()
        orders.append(stream.ring.state()["order"])
    assert not torch.equal(*orders)


def test_an_sae_on_all_processes_is_the_same_bits_on_each(two):
    one, other = states_of(two, "alike")
    assert equal(one, other)
    assert "adam.exp_avg.w_dec" in one
    assert one["firing.last"].max() == 12 * 64


def test_parts_of_a_batch_teach_what_the_whole_batch_does(two, settings, model):
    """Up to the batch's variance, which each part measures for itself."""
    config = settings(arch="topk")
    alone = Learner.create(config, [32], "cpu")
    for batch in whole_batches(config, model, 2, 12):
        alone.step(batch)
    together, whole = states_of(two, "rows")[0], alone.state()
    assert torch.equal(together["coder.input_scale"], whole["coder.input_scale"])
    start = Learner.create(config, [32], "cpu").state()["coder.w_dec"]
    moved = (whole["coder.w_dec"] - start).norm()
    assert (together["coder.w_dec"] - whole["coder.w_dec"]).norm() < 0.1 * moved
    assert (together["firing.last"] == whole["firing.last"]).float().mean() > 0.9
    counts = [float(state["firing.counts"].sum()) for state in (together, whole)]
    assert counts[0] == pytest.approx(counts[1], rel=0.05)


def test_two_processes_learn_as_well_as_one(two, run, settings, tmp_path, figures_of):
    one, both = figures_of(run(settings(), tmp_path / "one")), figures_of(two / "whole")
    assert [line["step"] for line in both] == list(range(1, 31))
    assert [line["n_tokens"] for line in both] == [line["n_tokens"] for line in one]
    assert mean_fvu(both) == pytest.approx(mean_fvu(one), rel=0.1)
    assert all(line["l0"] == pytest.approx(4, abs=0.1) for line in both)
    assert both[-1]["n_read"] >= both[-1]["n_tokens"] + 128


def test_a_stopped_run_resumes_in_the_same_bits(two, figures_of):
    assert weights_of(two / "stopped") == weights_of(two / "whole")
    assert figures_of(two / "stopped") == figures_of(two / "whole")


@pytest.mark.parametrize("name", ["b", "c"])
def test_where_an_sae_lives_and_where_it_stopped_change_no_bit(two, name):
    """In one of the runs they changed places, and only the other was stopped and resumed."""
    assert weights_of(two / "many" / name) == weights_of(two / "moved" / name)


def test_many_saes_live_on_one_process_each_and_learn_from_the_whole_batch(two, settings, model):
    config = settings(variants=MANY)
    columns = columns_of(config, model)
    homes = {"a": 0, "b": 1, "c": 0}
    batches = whole_batches(config, model, 2, 12)
    for name, each in config.each().items():
        (state,) = states_of(two, f"many-{name}")
        assert (two / f"many-{name}-{homes[name]}.safetensors").exists()
        learner = Learner.create(each, [32], "cpu")
        for batch in batches:
            learner.step(columns.pick(batch, learner.sites))
        assert equal(state, learner.state()), name


def test_a_world_of_one_gives_back_what_it_is_given():
    with join_world(None) as world:
        rows, gradient = torch.ones(2, 3), torch.ones(3)
        world.average([gradient])
        world.wait()
        assert world.rows(rows) is rows
        assert torch.equal(gradient, torch.ones(3))
        assert world.gather({"a": 1}) == [{"a": 1}]
        assert (world.most(7), world.leads, world.share(7, "n")) == (7, True, 7)
    assert not torch.distributed.is_initialized()


def test_a_batch_that_does_not_divide_is_refused(settings, model):
    with pytest.raises(ConfigError, match=r"batch_size is 64, .* 3 processes .*; 63 would do"):
        open_trainer(settings(), model, World(0, 3))
    with pytest.raises(ConfigError, match="128 would do"):
        World(0, 128).share(64, "batch_size")


def test_one_row_for_each_process_is_refused_unless_each_trains_on_the_whole_batch(settings, model):
    with pytest.raises(ConfigError, match=r"batch_size is 2, which leaves one row to a process"):
        open_trainer(settings(batch_size=2), model, World(0, 2))
    open_trainer(settings(batch_size=2, variants={"a": {}, "b": {}}), model, World(0, 2))


@pytest.mark.parametrize(
    ("environment", "device", "message"),
    [
        ({}, None, "WORLD_SIZE is 2, but RANK is not set; start by torchrun"),
        ({"RANK": "0"}, None, "LOCAL_RANK is not set"),
        ({"RANK": "1", "LOCAL_RANK": "1"}, "cuda:0", "device is cuda:0, but every process takes"),
        ({"RANK": "1", "LOCAL_RANK": "1"}, "mps", "use cuda or cpu"),
        ({"RANK": "9", "LOCAL_RANK": "9"}, "cuda", "GPUs here for more than 9 processes"),
    ],
)
def test_a_world_that_cant_be_is_refused(monkeypatch, environment, device, message):
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"} if len(environment) > 1 else {}
    for name, value in {"WORLD_SIZE": "2", **environment, **place}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message), join_world(device):
        pass


@pytest.mark.full
def test_four_go_on_as_two_and_two_as_one(folder, run, model, settings, tmp_path, figures_of):
    config = settings(n_tokens=64 * 90, passes=2)
    run_jobs(folder, 4, {"fewer": config}, [{"name": "fewer", "stop_at": 20}])
    run_jobs(folder, 2, {}, [{"name": "fewer", "resume": True, "stop_at": 45}])
    run_jobs(folder, 1, {}, [{"name": "fewer", "resume": True}])
    checkpoint = open_checkpoint(folder / "fewer" / "checkpoints" / "step-00000090")
    assert len(checkpoint.files) == 1
    lines, one = figures_of(folder / "fewer"), figures_of(run(config, tmp_path / "one"))
    assert [line["step"] for line in lines] == list(range(1, 91))
    assert lines[-1]["n_tokens"] == one[-1]["n_tokens"]
    assert lines[-1]["n_read"] == pytest.approx(one[-1]["n_read"], abs=4 * 64)
    assert sorted(line["n_read"] for line in lines) == [line["n_read"] for line in lines]
    assert mean_fvu(lines) == pytest.approx(mean_fvu(one), rel=0.1)


@pytest.mark.full
@pytest.mark.parametrize("n_processes", [2, 4])
def test_a_cache_is_filled_once_and_shared_by_its_shards(
    folder, settings, figures_of, tmp_path, n_processes
):
    names = [f"{name}{n_processes}" for name in ("filling", "reading", "stopped-reading")]
    cache = CacheConfig(str(tmp_path / "cache"), passes=2, rows_per_shard=200)
    config = settings(cache=cache, n_tokens=64 * 40)
    filling, reading, stopped = names
    jobs = [
        {"name": filling},
        {"name": reading},
        {"name": stopped, "stop_at": 11},
        {"name": stopped, "resume": True},
    ]
    run_jobs(folder, n_processes, dict.fromkeys(names, config), jobs)
    manifest = json.loads((tmp_path / "cache" / "manifest.json").read_text())
    assert sum(shard["rows"] for shard in manifest["shards"]) > 64 * 20
    assert weights_of(folder / filling) == weights_of(folder / reading)
    assert weights_of(folder / filling) == weights_of(folder / stopped)
    assert figures_of(folder / stopped) == figures_of(folder / filling)


@pytest.fixture(scope="module")
def start(folder, settings) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a run of the command line in two processes, in a folder by its name."""
    started = []
    config = settings(n_tokens=64 * N_STEPS, passes=20, checkpoint_every_steps=4)
    path = folder / "command.yaml"
    path.write_text(dump_config(replace(config, model=str(folder / "model"))))

    def begin(out: Path, *options: str) -> subprocess.Popen:
        command = ("-m", "saesteer", "train", "sae", str(path), "--out", str(out), *options)
        started.append(torchrun(2, *command))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def unstopped(start, folder) -> Path:
    output = finish(start(folder / "unstopped"))
    assert output.count("/unstopped") == 1, "only one process speaks"
    return folder / "unstopped"


def workers_of(process: subprocess.Popen) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def wait_for_steps(process: subprocess.Popen, out: Path, n_steps: int) -> None:
    deadline, metrics = time.monotonic() + 200, out / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < n_steps:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the run never started"
        time.sleep(0.01)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


@pytest.mark.full
@pytest.mark.parametrize("receiver", ["torchrun", "one process"])
def test_sigterm_stops_all_behind_one_step_and_resume_loses_none(
    start, unstopped, tmp_path, figures_of, receiver
):
    out = tmp_path / "stopped"
    process = start(out)
    wait_for_steps(process, out, 20)
    os.kill(process.pid if receiver == "torchrun" else workers_of(process)[1], signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert output.count("stopped by SIGTERM after a checkpoint; go on with the same command") == 1
    if receiver == "one process":
        assert "exitcode  : 143" in output
    newest = max((out / "checkpoints").iterdir()).name
    assert int(newest.removeprefix("step-")) == len(figures_of(out)) < N_STEPS
    finish(start(out, "--resume"))
    assert weights_of(out) == weights_of(unstopped)
    assert figures_of(out) == figures_of(unstopped)


@pytest.mark.full
@pytest.mark.parametrize("rank", [0, 1])
def test_the_death_of_one_process_leaves_whole_checkpoints(
    start, unstopped, tmp_path, figures_of, rank
):
    out = tmp_path / "killed"
    process = start(out)
    wait_for_steps(process, out, 30)
    os.kill(workers_of(process)[rank], signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    kept = sorted((out / "checkpoints").glob("step-*"))
    assert len(kept) >= 2, output
    assert all(len(open_checkpoint(path).files) == 2 for path in kept)
    finish(start(out, "--resume"))
    assert weights_of(out) == weights_of(unstopped)
    assert figures_of(out) == figures_of(unstopped)
