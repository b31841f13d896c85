"""SIGKILL at random moments, again and again: the run ends in the bits of an untouched one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from saesteer.config import CacheConfig, TrainSAEConfig, dump_config
from saesteer.models import load_model
from saesteer.training.sae import train_sae

SERVER = """
import os, sys
import sae_lens.saes
from saesteer.config import TrainSAEConfig, load_config
from saesteer.models import load_model
from saesteer.training.sae import train_sae
config, out = load_config(TrainSAEConfig, sys.argv[1]), sys.argv[2]
model = load_model(config.model, device="cpu")
for _ in sys.stdin:
    pid = os.fork()
    if pid == 0:
        train_sae(config, out, resume=True, model=model)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Forks a fresh run for every line, so that libraries and model are loaded once."""

EVERY = 5
"""Steps between checkpoints."""

STEPS = 40
"""More than any kill lets a run do, so that so many for each kill never end it."""

full = pytest.mark.full


@pytest.fixture(autouse=True)
def one_thread():
    """As the forked runs have: how many threads share a sum decides its last bits."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture
def killed_run(tmp_path):
    """Kills a run `n` times, lets it end, and returns its folder and how far each kill let it."""

    def make(config: TrainSAEConfig, n: int) -> tuple[Path, list[int]]:
        out, rng, reached = tmp_path / "killed", random.Random(n), []
        (tmp_path / "config.yaml").write_text(dump_config(config))
        command = [sys.executable, "-c", SERVER, str(tmp_path / "config.yaml"), str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            command,
            cwd=Path(__file__).parents[2],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            for turn in range(n):
                server.stdin.write("go\n")
                server.stdin.flush()
                pid = int(server.stdout.readline())
                if turn % 4 == 0:  # while it reads, resumes or fills its cache
                    time.sleep(rng.uniform(0, 0.3))
                else:
                    wait_for(out, reached[-1] + rng.randrange(EVERY + 1, STEPS))
                    time.sleep(rng.uniform(0, 0.01))
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                assert int(server.stdout.readline()) in (0, -signal.SIGKILL)
                steps = [p.name for p in out.glob("checkpoints/step-*")]
                reached.append(max((int(s.removeprefix("step-")) for s in steps), default=0))
            server.stdin.close()
        return out, reached

    return make


def wait_for(out: Path, step: int) -> None:
    """Return once a run has logged so many steps."""
    deadline, metrics = time.monotonic() + 120, out / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < step:
        assert time.monotonic() < deadline, f"the run never came to step {step}"
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("arch", "cached", "n"),
    [
        ("batchtopk", False, 4),
        pytest.param("batchtopk", False, 20, marks=full),
        pytest.param("batchtopk", True, 20, marks=full),
        pytest.param("jumprelu", False, 20, marks=full),
        pytest.param("jumprelu", True, 20, marks=full),
    ],
)
def test_kills_lose_nothing(settings, model, tmp_path, figures_of, killed_run, arch, cached, n):
    folder = tmp_path / "model"
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    config = settings(
        model=str(folder),
        arch=arch,
        passes=40,
        n_tokens=64 * STEPS * n,
        checkpoint_every_steps=EVERY,
        cache=CacheConfig(str(tmp_path / "cache") if cached else None, rows_per_shard=300),
    )
    out, reached = killed_run(config, n)
    assert reached == sorted(reached)
    assert len(set(reached)) > 2, "the kills came too early or too late to mean anything"
    loaded = load_model(str(folder), device="cpu")
    train_sae(config, out, resume=True, model=loaded)
    whole = train_sae(config, tmp_path / "whole", model=loaded)
    weights = "sae_weights.safetensors"
    assert (out / weights).read_bytes() == (whole / weights).read_bytes()
    assert figures_of(out) == figures_of(whole)
