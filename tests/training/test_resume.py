"""Whatever stops a run, resuming it ends in the same bits as never stopping."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from saesteer.config import CacheConfig, SupervisedConfig, TrainSAEConfig, dump_config
from saesteer.data.sources import ModelSource
from saesteer.errors import CheckpointError, DataError, OutputError
from saesteer.models import load_model
from saesteer.training.sae import train_sae
from saesteer.training.signals import StopRequest


class Killed(BaseException):
    """As a kill: nothing catches it."""


def weights_of(out: Path) -> bytes:
    return (out / "sae_weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory):
    """The folder of a run that nothing stopped, made once for equal settings; not to be changed."""
    known: dict[str, Path] = {}

    def whole(config: TrainSAEConfig) -> Path:
        key = repr(config)
        if key not in known:
            known[key] = tmp_path_factory.mktemp("whole")
            train_sae(config, known[key], model=tiny_model("llama"))
        return known[key]

    return whole


@pytest.mark.parametrize(
    "changes",
    [
        *({}, {"arch": "topk"}, {"arch": "jumprelu"}, {"reuse": 2}, {"prefetch": 2}, {"kl": 1.0}),
        {"passes": 2, "n_tokens": 64 * 40},
    ],
    ids=["batchtopk", "topk", "jumprelu", "reuse", "prefetch", "end to end", "two passes"],
)
@pytest.mark.parametrize(
    "stops", [pytest.param((7, 20), marks=pytest.mark.full), (1, 13, 14, 29)], ids=str
)
def test_a_resumed_run_ends_in_the_same_bits(
    run, finished, settings, tmp_path, figures_of, changes, stops
):
    config = settings(**changes)
    whole = finished(config)
    out = tmp_path / "stopped"
    for resume, stop_at in enumerate(stops):
        assert run(config, out, resume=bool(resume), stop_at=stop_at) is None
        assert (out / "checkpoints" / f"step-{stop_at:08d}").is_dir()
        assert not (out / "cfg.json").exists()
    assert run(config, out, resume=True) == out
    assert weights_of(out) == weights_of(whole)
    assert figures_of(out) == figures_of(whole)
    assert (out / "cfg.json").read_text() == (whole / "cfg.json").read_text()


@pytest.mark.parametrize("cached", [False, True], ids=["from the model", "from a cache"])
@pytest.mark.parametrize("kind", ["transcoder", "crosscoder", "supervised"])
def test_more_columns_resume_in_the_same_bits(
    run, finished, settings, tmp_path, figures_of, labelled_text, kind, cached
):
    told = SupervisedConfig(labelled_text, latent=3)
    changes = {
        "transcoder": {"site": "mlp_in.1", "target": "mlp_out.1", "skip": True},
        "crosscoder": {"sites": ["resid_post.0", "mlp_out.1"]},
        "supervised": {"supervised": told},
    }[kind]
    whole = finished(settings(**changes))
    if cached:
        changes["cache"] = CacheConfig(str(tmp_path / "cache"), rows_per_shard=500)
    out = tmp_path / "stopped"
    for resume, stop_at in enumerate((7, 20)):
        assert run(settings(**changes), out, resume=bool(resume), stop_at=stop_at) is None
    assert run(settings(**changes), out, resume=True) == out
    assert weights_of(out) == weights_of(whole)
    read = {"n_read", "n_outliers"}  # a cache hands out whole shards
    for one, other in zip(figures_of(whole), figures_of(out), strict=True):
        assert repr({k: v for k, v in one.items() if k not in read or not cached}) == repr(
            {k: v for k, v in other.items() if k not in read or not cached}
        )


def test_steps_after_the_last_checkpoint_are_done_again(
    run, finished, settings, model, tmp_path, figures_of
):
    config = settings(checkpoint_every_steps=10)
    whole = finished(config)
    out = tmp_path / "killed"

    def progress(step, *_):
        if step == 17:
            raise Killed

    with pytest.raises(Killed):
        train_sae(config, out, model=model, progress=progress)
    assert [line["step"] for line in figures_of(out)][-1] == 17
    run(config, out, resume=True)
    assert [line["step"] for line in figures_of(out)] == list(range(1, 31))
    assert figures_of(out) == figures_of(whole)
    assert weights_of(out) == weights_of(whole)


def test_a_cache_on_disk_changes_no_bit(
    run, finished, settings, model, tmp_path, figures_of, monkeypatch
):
    whole = finished(settings())
    config = settings(cache=CacheConfig(str(tmp_path / "cache"), rows_per_shard=300))
    out = tmp_path / "stopped"
    stop = StopRequest(15)
    assert train_sae(config, out, model=model, stop=stop) is None, "stopped while filling the cache"
    assert len(list((tmp_path / "cache").glob("shard-*"))) == 1
    assert run(config, out, resume=True, stop_at=13) is None
    monkeypatch.setattr(ModelSource, "next_chunk", lambda _: pytest.fail("the model ran again"))
    run(config, out, resume=True)
    run(config, tmp_path / "second")
    assert weights_of(out) == weights_of(tmp_path / "second") == weights_of(whole)
    assert [f["fvu"] for f in figures_of(out)] == [f["fvu"] for f in figures_of(whole)]
    assert len(list((tmp_path / "cache").glob("shard-*"))) > 5


def test_resuming_without_a_checkpoint_starts(run, finished, settings, tmp_path):
    run(settings(), tmp_path / "new", resume=True)
    assert weights_of(tmp_path / "new") == weights_of(finished(settings()))


def test_a_run_killed_before_its_first_checkpoint_begins_again(
    finished, settings, model, run, tmp_path, figures_of
):
    whole, out = finished(settings()), tmp_path / "killed"

    def progress(step, *_):
        if step == 7:
            raise Killed

    with pytest.raises(Killed):
        train_sae(settings(), out, model=model, progress=progress)
    with pytest.raises(OutputError, match="already holds a run; pass --resume"):
        run(settings(), out)
    with pytest.raises(
        CheckpointError, match=r"resolved\.yaml was written under other .*seed: 0 th"
    ):
        run(settings(seed=1), out, resume=True)
    run(settings(), out, resume=True)
    assert weights_of(out) == weights_of(whole)
    assert figures_of(out) == figures_of(whole)


def test_other_weights_of_the_model_are_refused(run, settings, model, tmp_path):
    out = tmp_path / "run"
    run(settings(), out, stop_at=5)
    other = replace(model, known_fingerprint="0" * 16)
    with pytest.raises(CheckpointError, match="was written with other weights of the model"):
        train_sae(settings(), out, model=other, resume=True)


def test_resuming_a_finished_run_changes_nothing(run, settings, tmp_path, figures_of):
    out = run(settings(), tmp_path / "run")
    before = weights_of(out), figures_of(out)
    assert run(settings(), out, resume=True) == out
    assert (weights_of(out), figures_of(out)) == before


def test_other_settings_are_refused_by_name(run, settings, tmp_path):
    out = tmp_path / "run"
    run(settings(), out, stop_at=5)
    with pytest.raises(CheckpointError, match=r"other settings .lr: 0\.003 then, 0\.01 now.; resu"):
        run(settings(lr=0.01), out, resume=True)
    assert run(settings(log_every_steps=5, passes=2), out, resume=True) == out


@pytest.mark.parametrize(
    "changed", [lambda t: t + "and more", lambda t: t[::-1]], ids=["longer", "reordered"]
)
def test_text_that_changed_is_refused(run, settings, tmp_path, changed):
    path = tmp_path / "a.txt"
    path.write_text("the quick brown fox over the lazy dog in the rain " * 80)
    out = tmp_path / "run"
    run(settings(path=str(path), n_tokens=64 * 8), out, stop_at=3)
    path.write_text(changed(path.read_text()))
    with pytest.raises(DataError, match="the text has changed since it was read"):
        run(settings(path=str(path), n_tokens=64 * 8), out, resume=True)


def test_a_whole_cache_of_a_text_that_changed_is_refused(run, settings, tmp_path):
    path, cache = tmp_path / "a.txt", CacheConfig(str(tmp_path / "cache"), rows_per_shard=300)
    path.write_text("the quick brown fox over the lazy dog in the rain " * 120)
    config = settings(path=str(path), n_tokens=64 * 8, cache=cache)
    run(config, tmp_path / "first")
    path.write_text("in town and sea sun a dog " * 200)
    with pytest.raises(DataError, match=r"cache holds activations of another text: .* now \['a\.t"):
        run(config, tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_a_cache_that_ends_too_soon_is_said_before_the_run(run, settings, tmp_path):
    path, cache = tmp_path / "a.txt", CacheConfig(str(tmp_path / "cache"), rows_per_shard=300)
    path.write_text("the quick brown fox over the lazy dog in the rain " * 80)

    def train(n_steps):
        return run(settings(path=str(path), cache=cache, n_tokens=n_steps * 64), tmp_path / "run")

    with pytest.raises(
        DataError, match=r"the text ended when .* n_tokens 64,000 needs 64,128, tho"
    ):
        train(1000)
    shards = json.loads((tmp_path / "cache" / "manifest.json").read_text())["shards"]
    # rings of 256 rows, of which 128 are replaced every other step
    n_steps = (sum(shard["rows"] for shard in shards) // 128 - 1) * 2
    with pytest.raises(DataError, match=r"Raise cache\.passes"):
        train(n_steps + 1)
    assert not (tmp_path / "run").exists()
    assert train(n_steps)


def test_a_damaged_checkpoint_is_refused_and_the_one_before_serves(
    run, finished, settings, tmp_path, figures_of
):
    whole = finished(settings())
    out = tmp_path / "run"
    run(settings(), out, stop_at=15)
    last = out / "checkpoints" / "step-00000015"
    tensors = last / "rank-0.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match=r"step-00000015 is damaged .*delete that folder"):
        run(settings(), out, resume=True)
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    run(settings(), out, resume=True)
    assert weights_of(out) == weights_of(whole)
    assert figures_of(out) == figures_of(whole)


SCRIPT = """
import sys, time
from saesteer.config import TrainSAEConfig, load_config
from saesteer.training.sae import train_sae
from saesteer.training.signals import StopRequest
train_sae(load_config(TrainSAEConfig, sys.argv[1]), sys.argv[2],
          progress=lambda step, *_: time.sleep(0.01 if step < 10 else 0.5))
"""


@pytest.fixture
def on_disk(settings, model, tmp_path) -> TrainSAEConfig:
    """Settings for another process: the model lies in a folder."""
    folder = tmp_path / "model"
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    config = settings(model=str(folder), checkpoint_every_steps=4, n_tokens=64 * 60)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    return config


@pytest.fixture
def start(on_disk, tmp_path):
    """Starts the run in another process."""
    processes = []

    def begin(out: Path) -> subprocess.Popen:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "config.yaml"), str(out)]
        processes.append(subprocess.Popen(command, cwd=Path(__file__).parents[2]))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def send_after(number: int, process: subprocess.Popen, out: Path, n_steps: int) -> int:
    """Sends a signal once a run has logged so many steps; returns its exit status."""
    deadline, metrics = time.monotonic() + 200, out / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < n_steps:
        assert process.poll() is None, "the run ended by itself"
        assert time.monotonic() < deadline, "the run never started"
        time.sleep(0.002)
    process.send_signal(number)
    return process.wait(60)


def test_a_killed_process_loses_nothing_and_a_stopped_one_saves(
    start, on_disk, tmp_path, figures_of
):
    killed, stopped = start(tmp_path / "killed"), start(tmp_path / "stopped")
    assert send_after(signal.SIGKILL, killed, tmp_path / "killed", 10) == -signal.SIGKILL
    assert send_after(signal.SIGTERM, stopped, tmp_path / "stopped", 10) == 0
    newest = max((tmp_path / "stopped" / "checkpoints").iterdir()).name
    assert int(newest.removeprefix("step-")) == len(figures_of(tmp_path / "stopped")) < 60

    loaded = load_model(on_disk.model, device="cpu")
    whole = train_sae(on_disk, tmp_path / "whole", model=loaded)
    for name in ("killed", "stopped"):
        out = tmp_path / name
        assert not (out / "cfg.json").exists()
        train_sae(on_disk, out, resume=True, model=loaded)
        assert weights_of(out) == weights_of(whole), name
        assert figures_of(out) == figures_of(whole), name
