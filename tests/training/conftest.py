"""A run that takes a second: a tiny Llama, a small text and settings to match."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from saesteer.config import TextConfig, TrainSAEConfig
from saesteer.models import Model
from saesteer.training.sae import train_sae
from saesteer.training.signals import StopRequest

SENTENCE = "the rain in town and sea sun a quick brown fox over lazy dog"

LABELLED = (["quick", "brown", "fox"], ["rain", "town", "sea"])
"""Words of documents whose label is 0, and 1."""


@pytest.fixture(scope="session")
def training_text(tmp_path_factory) -> str:
    """Some 9,000 tokens in documents of different lengths, in two files."""
    rng, folder = random.Random(0), tmp_path_factory.mktemp("text")
    for name in ("a.jsonl", "b.jsonl"):
        lines = [" ".join(rng.choices(SENTENCE.split(), k=rng.randrange(3, 60))) for _ in range(50)]
        (folder / name).write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return str(folder)


@pytest.fixture(scope="session")
def labelled_text(tmp_path_factory) -> str:
    """Documents of which each has one label and uses the words of that label alone."""
    rng, path = random.Random(1), tmp_path_factory.mktemp("labels") / "told.jsonl"
    lines = []
    for index in range(120):
        words = rng.choices(LABELLED[index % 2], k=rng.randrange(3, 40))
        lines.append(json.dumps({"text": " ".join(words), "label": index % 2}) + "\n")
    path.write_text("".join(lines))
    return str(path)


@pytest.fixture
def model(tiny_model) -> Model:
    return tiny_model("llama")


@pytest.fixture(scope="session")
def settings(training_text) -> Callable[..., TrainSAEConfig]:
    """Settings of a run of 30 steps of 64 tokens; anything can be overridden."""

    def make(*, path: str = training_text, passes: int = 1, **changes) -> TrainSAEConfig:
        usual = {
            "model": "tiny-llama",
            "site": "resid_post.1",
            "d_sae": 64,
            "k": 4,
            "n_tokens": 30 * 64,
            "batch_size": 64,
            "lr": 3e-3,
            "warmup_steps": 3,
            "aux_k": 8,
            "dead_after_tokens": 320,
            "shuffle_batches": 2,
            "rows_per_pass": 4,
            "dtype": "float32",
            "device": "cpu",
            "checkpoint_every_steps": 10,
            "log_every_steps": 1,
        }
        text = TextConfig(path, context=16, passes=passes)
        return TrainSAEConfig(text=text, **{**usual, **changes})

    return make


@pytest.fixture
def run(model):
    """Trains in a folder; `stop_at` asks for a stop after so many steps."""

    def train(config: TrainSAEConfig, out: Path, *, resume: bool = False, stop_at=None):
        stop = StopRequest()

        def progress(step, _steps, _figures):
            if step == stop_at:
                stop.signal = 15

        return train_sae(config, out, model=model, resume=resume, stop=stop, progress=progress)

    return train


@pytest.fixture
def figures_of():
    """The figures of a run's metrics, without what depends on the clock."""

    def read(out: Path) -> list[dict]:
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        clock = ("tokens_per_second", "stream_share_of_time", "seconds_per_step")
        return [{k: v for k, v in line.items() if not k.endswith(clock)} for line in lines]

    return read
