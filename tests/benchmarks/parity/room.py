"""A rival in a virtual environment of its own, and a small model that both sides read.

The environment is made once, in the user's cache, by pip from the package registry. The model is a
tiny random Llama in fp32 with real tokens; the rival reads weights and `tokenizer.json` alone,
since older versions of transformers don't know the newer tokenizer classes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[2])]

from saesteer.models import Model  # noqa: E402
from saesteer.models.embedded import cache_root  # noqa: E402

TORCH = "torch>=2.6,<2.14"
PAIRS = [
    (f"the {noun} in the {place} and {verb}", "the", "in")
    for noun in ("rain", "sea", "sun", "town")
    for place in ("town", "sun", "sea")
    for verb in ("then", "there", "thus")
]
"""A prompt and two answers of one token each, as in the paper: the answer is what is read."""


def venv(name: str, *requirements: str) -> Path:
    """The Python of an environment with these packages."""
    folder = cache_root() / "rivals" / f"venv-{name}"
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, TORCH, *requirements], check=True)
        (folder / "ready").touch()
    return python


def ask(python: Path, script: str, folder: Path) -> None:
    """Run a rival's side; it reads and writes in `folder`."""
    clean = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run([str(python), str(HERE / script), str(folder)], check=True, env=clean)


def save_model(folder: Path) -> Model:
    """The model, saved for the rival."""
    import conftest

    model = conftest.make_tiny_model("llama")
    model.hf.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    return model


def write_result(script: str, result: dict[str, Any]) -> None:
    """Beside the script, and on stdout."""
    text = json.dumps(result, indent=1)
    Path(script).with_suffix(".json").write_text(text + "\n")
    print(text)
