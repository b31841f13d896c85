"""A checkpoint is whole or not there, and damage is found before anything is restored."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from saesteer import files
from saesteer.errors import CheckpointError, OutputError
from saesteer.training import checkpoint as checkpoint_module
from saesteer.training.checkpoint import list_checkpoints, open_checkpoint, write_checkpoint

STATE = {"config": {"widths": [1, 2]}, "name": "größer", "rate": 0.1}
PLACE = {"turn": 3, "tokens": [1, 2], "text": "schön"}
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(7), "b": torch.ones(2).bool()}


@pytest.fixture
def saved(tmp_path):
    return write_checkpoint(tmp_path, 10, STATE, PLACE, TENSORS, keep=2)


def test_what_was_saved_is_read(saved):
    checkpoint = open_checkpoint(saved)
    tensors = checkpoint.under("")
    assert saved.name == "step-00000010"
    assert {key: checkpoint.state[key] for key in STATE} == STATE
    assert checkpoint.state["step"] == 10
    assert checkpoint.place(0) == PLACE
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())


def test_tensors_are_read_by_how_their_names_begin(tmp_path):
    tensors = {"sae.a.w": torch.ones(2), "sae.b.w": torch.zeros(2), "stream.n": torch.tensor(3)}
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, 1, {}, {}, tensors, keep=1))
    assert checkpoint.under("sae.b.").keys() == {"w"}
    assert torch.equal(checkpoint.under("sae.b.")["w"], tensors["sae.b.w"])
    assert checkpoint.under("stream.", 0).keys() == {"n"}


def test_views_are_saved_as_what_they_show(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    path = write_checkpoint(tmp_path, 1, {}, {}, {"t": whole.t(), "tail": whole[1:]}, keep=1)
    tensors = open_checkpoint(path).under("")
    assert torch.equal(tensors["t"], whole.t())
    assert torch.equal(tensors["tail"], whole[1:])


def test_nothing_is_pickled(saved):
    assert sorted(p.name for p in saved.iterdir()) == ["rank-0.safetensors", "state.json"]
    assert json.loads((saved / "state.json").read_text())["step"] == 10


def test_the_newest_are_kept(tmp_path):
    for step in (10, 20, 100, 30):
        write_checkpoint(tmp_path, step, STATE, PLACE, TENSORS, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000030", "step-00000100"]


def test_a_step_can_be_saved_again(saved, tmp_path):
    write_checkpoint(tmp_path, 10, {"second": True}, PLACE, TENSORS, keep=2)
    assert open_checkpoint(saved).state["second"] is True


def test_folders_without_a_state_are_no_checkpoints(saved, tmp_path):
    (tmp_path / "step-00000099").mkdir()
    (tmp_path / ".writing" / "step-00000050").mkdir(parents=True)
    assert list_checkpoints(tmp_path) == [saved]


@pytest.mark.parametrize("where", [".writing/step-00000015", ".step-00000015.old"])
def test_what_a_kill_left_is_cleared_by_the_next_one(saved, tmp_path, where):
    left = tmp_path / where
    left.mkdir(parents=True)
    (left / "rank-0.safetensors").write_bytes(b"half")
    write_checkpoint(tmp_path, 20, STATE, PLACE, TENSORS, keep=2)
    assert not left.exists()


@pytest.mark.parametrize("failing", ["save_tensors", "put_in_place", "sync"])
def test_a_full_disk_leaves_the_older_ones(saved, tmp_path, monkeypatch, failing):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"{checkpoint_module.__name__}.{failing}", full)
    with pytest.raises(OutputError, match=r"step-00000020 can't be written: .*No space left"):
        write_checkpoint(tmp_path, 20, STATE, PLACE, TENSORS, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000010"]
    open_checkpoint(saved)


def test_all_of_it_is_on_disk_before_it_is_renamed(tmp_path, monkeypatch):
    done, put, sync = [], os.replace, files.sync

    def syncing(path):
        done.append(("sync", path.name))
        sync(path)

    def replacing(source, target):
        done.append(("replace", Path(target).name))
        put(source, target)

    monkeypatch.setattr(checkpoint_module, "sync", syncing)
    monkeypatch.setattr(files, "sync", syncing)
    monkeypatch.setattr(os, "replace", replacing)
    write_checkpoint(tmp_path, 10, STATE, PLACE, TENSORS, keep=2)
    before, after = done[: done.index(("replace", "step-00000010"))], done[-1]
    assert {name for _, name in before} == {"rank-0.safetensors", "state.json", "step-00000010"}
    assert before[-1] == ("sync", "step-00000010")
    assert after == ("sync", tmp_path.name)


def test_a_failing_save_of_the_same_step_keeps_the_first(saved, tmp_path, monkeypatch):
    put = os.replace

    def failing(source, target):
        if Path(source).parent.name == ".writing":
            raise OSError(28, "No space left on device")
        put(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OutputError, match="step-00000010 can't be written"):
        write_checkpoint(tmp_path, 10, {"second": True}, PLACE, TENSORS, keep=2)
    assert "second" not in open_checkpoint(saved).state
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000010"]


def test_a_place_that_cant_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="can't be written"):
        write_checkpoint(tmp_path / "file" / "checkpoints", 1, STATE, PLACE, TENSORS, keep=1)


def flip(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("offset", [3, 40, -1])
def test_a_flipped_bit_in_the_tensors(saved, offset):
    flip(saved / "rank-0.safetensors", offset)
    with pytest.raises(CheckpointError, match=r"step-00000010 is damaged .checksum differs.; dele"):
        open_checkpoint(saved)


def test_a_changed_number_in_the_state(saved):
    path = saved / "state.json"
    path.write_text(path.read_text().replace('"rate": 0.1', '"rate": 0.2'))
    with pytest.raises(CheckpointError, match="is damaged .checksum differs"):
        open_checkpoint(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "{}", '{"state_sha256": "0"}'])
def test_a_broken_state(saved, text):
    (saved / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match="is damaged .*delete that folder to resume from the"):
        open_checkpoint(saved)


@pytest.mark.parametrize("name", ["rank-0.safetensors", "state.json"])
def test_a_missing_file(saved, name):
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match="is damaged .*No such file"):
        open_checkpoint(saved)


def test_truncated_tensors(saved):
    path = saved / "rank-0.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CheckpointError, match="is damaged"):
        open_checkpoint(saved)


def test_a_missing_checkpoint(saved):
    shutil.rmtree(saved)
    with pytest.raises(CheckpointError, match="is damaged .*No such file"):
        open_checkpoint(saved)
