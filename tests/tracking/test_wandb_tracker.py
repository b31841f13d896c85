"""An offline wandb run needs neither account nor network, and its files hold what was logged."""

from __future__ import annotations

import json
import struct
import warnings

import pytest

from saesteer.errors import ConfigError


@pytest.fixture
def tracker_of(tmp_path, monkeypatch):
    """Makes offline trackers that write below `tmp_path`; wandb's import may warn."""
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import wandb  # noqa: F401
    from saesteer.tracking import WandbTracker

    def make(**options):
        settings = {"project": "tests", "name": "tiny", "mode": "offline", "config": {"k": 4}}
        return WandbTracker(folder=tmp_path, **{**settings, **options})

    return make


BLOCK, HEADER = 32768, struct.Struct("<IHB")


def chunks_of(content: bytes):
    """The chunks of a LevelDB log, as (type, payload); the file opens with seven bytes of its own.

    Types are 1 for a whole record, 2, 3 and 4 for its first, middle and last part.
    """
    at = 7
    while at + HEADER.size <= len(content):
        if BLOCK - at % BLOCK < HEADER.size:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(content, at)
        yield kind, content[at + HEADER.size : at + HEADER.size + length]
        at += HEADER.size + length


def records_in(folder):
    """Everything in the binary files of the runs below a folder, in order."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime):
        content, whole = path.read_bytes(), b""
        assert content[:4] == b":W&B"
        for kind, payload in chunks_of(content):
            whole += payload
            if kind in (1, 4):
                found.append(wandb_internal_pb2.Record.FromString(whole))
                whole = b""
    return found


def history_of(records):
    rows = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = {
                (item.key or ".".join(item.nested_key)): json.loads(item.value_json)
                for item in record.history.item
            }
            rows.append(items)
    return rows


def test_an_offline_run_holds_what_was_logged(tracker_of, tmp_path):
    tracker = tracker_of()
    tracker.log(1, {"loss": 0.5, "l0": 32.0})
    tracker.log(3, {"loss": 0.25, "l0": 31.0})
    tracker.table("methods", [{"method": "CAA", "effect": 0.5}])
    run_id = tracker.run_id
    tracker.finish()

    records = records_in(tmp_path)
    runs = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert (runs[0].run_id, runs[0].project, runs[0].display_name) == (run_id, "tests", "tiny")
    config = {update.key: json.loads(update.value_json) for update in runs[0].config.update}
    assert config["k"] == 4
    history = history_of(records)
    assert [(row["_step"], row["loss"], row["l0"]) for row in history if "loss" in row] == [
        (1, 0.5, 32.0),
        (3, 0.25, 31.0),
    ]
    tables = list(tmp_path.glob("wandb/offline-run-*/files/media/table/*.json"))
    assert json.loads(tables[0].read_text())["data"] == [["CAA", 0.5]]

    again = tracker_of(run_id=run_id)
    assert again.run_id == run_id
    again.log(4, {"loss": 0.125})
    again.finish()
    assert [row["loss"] for row in history_of(records_in(tmp_path)) if "loss" in row] == [
        *(0.5, 0.25, 0.125),
    ]


def test_no_account_is_one_clear_line(tracker_of, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ConfigError, match=r"wandb can't start .*; log in first, or set wandb\.m"):
        tracker_of(mode="online")
