"""A tiny model and SAE on disk, and the command line as a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from saesteer.cli import main
from saesteer.models import Site
from saesteer.saes import save_sae


class Outcome(NamedTuple):
    """What one command printed and returned."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `saesteer ARGS`."""

    def run(*args: Any) -> Outcome:
        capsys.readouterr()
        try:
            status = main([str(arg) for arg in args])
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any, tiny_sae: Any) -> Path:
    """A folder with `model/`, `sae/`, `wide-sae/`, `text.txt` and `train.yaml`."""
    place = tmp_path_factory.mktemp("disk")
    model = tiny_model("llama")
    model.hf.save_pretrained(place / "model")
    model.tokenizer.save_pretrained(place / "model")
    save_sae(tiny_sae(model, "resid_post.2"), place / "sae")
    wide = replace(tiny_sae(model, "neurons.1"), site=Site.parse("resid_post.1"))
    save_sae(wide, place / "wide-sae")
    (place / "text.txt").write_text("the rain in the town and the sea in the sun " * 400)
    (place / "train.yaml").write_text(
        f"model: {place / 'model'}\nsite: resid_post.1\nd_sae: 64\nk: 4\nn_tokens: 2048\n"
        f"batch_size: 128\nshuffle_batches: 2\nrows_per_pass: 2\ndtype: float32\n"
        f"checkpoint_every_steps: 8\nlog_every_steps: 4\nwarmup_steps: 2\n"
        f"text: {{path: {place / 'text.txt'}, context: 64}}\n"
    )
    return place
