"""An offline wandb run needs neither account nor network, and its files hold what was logged."""

from __future__ import annotations

import json
import re
import struct
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from saesteer.errors import ConfigError, TaskError


@pytest.fixture
def tracker_of(tmp_path, monkeypatch):
    """Makes offline trackers that write to a folder below `tmp_path`; wandb's import may warn."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import wandb  # noqa: F401
    from saesteer.tracking import WandbTracker

    def make(folder, **options):
        (tmp_path / folder).mkdir()
        settings = {"project": "tests", "name": "tiny", "mode": "offline", "config": {"k": 4}}
        return WandbTracker(folder=tmp_path / folder, **{**settings, **options})

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
        if at + HEADER.size + length > len(content):
            return
        yield kind, content[at + HEADER.size : at + HEADER.size + length]
        at += HEADER.size + length


def records_in(folder):
    """Everything in the file of the run below a folder; wandb's service ends it after `finish`."""
    deadline = time.monotonic() + 20
    while (records := read_records(folder)) is None or kind_of(records[-1]) != "exit":
        assert time.monotonic() < deadline, "the run's file was never finished"
        time.sleep(0.02)
    return records


def kind_of(record):
    return record.WhichOneof("record_type")


def read_records(folder):
    """All whole records so far, or None while there are none."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        content, whole = path.read_bytes(), b""
        for kind, payload in chunks_of(content):
            whole += payload
            if kind in (1, 4):
                found.append(wandb_internal_pb2.Record.FromString(whole))
                whole = b""
    return found or None


def history_of(records):
    rows = []
    for record in records:
        if kind_of(record) == "history":
            items = {
                (item.key or ".".join(item.nested_key)): json.loads(item.value_json)
                for item in record.history.item
            }
            rows.append(items)
    return rows


def artefacts_in(records):
    requests = [r.request for r in records if kind_of(r) == "request"]
    logged = [r.log_artifact.artifact for r in requests if r.HasField("log_artifact")]
    return logged + [r.artifact for r in records if kind_of(r) == "artifact"]


def test_an_offline_run_holds_what_was_logged(tracker_of, tmp_path):
    tracker = tracker_of("first")
    tracker.log(1, {"loss": 0.5, "l0": 32.0})
    tracker.log(3, {"loss": 0.25, "l0": 31.0})
    tracker.table("methods", [{"method": "CAA", "effect": 0.5}])
    run_id = tracker.run_id
    tracker.finish()

    records = records_in(tmp_path / "first")
    runs = [r.run for r in records if kind_of(r) == "run"]
    assert (runs[0].run_id, runs[0].project, runs[0].display_name) == (run_id, "tests", "tiny")
    config = {update.key: json.loads(update.value_json) for update in runs[0].config.update}
    assert config["k"] == 4
    history = history_of(records)
    figures = [(row["_step"], row["loss"], row["l0"]) for row in history]
    assert figures == [(1, 0.5, 32.0), (3, 0.25, 31.0)]
    tables = list(tmp_path.glob("first/wandb/offline-run-*/files/media/table/*.json"))
    assert json.loads(tables[0].read_text())["data"] == [["CAA", 0.5]]

    again = tracker_of("again", run_id=run_id)
    assert again.run_id == run_id
    again.log(4, {"loss": 0.125})
    again.finish()
    rows = history_of(records_in(tmp_path / "again"))
    assert [(row["_step"], row["loss"]) for row in rows] == [(4, 0.125)]


def test_no_figure_of_a_comparison_or_a_search_is_lost_beside_the_tables(tracker_of, tmp_path):
    from saesteer.evals import results, tune

    tracker = tracker_of("first")
    for task in ("sea", "mood"):
        row = {"method": "CAA", "effect": 0.5, "effect_ci": [0.0, 1.0], "kl": 0.25}
        report: Any = SimpleNamespace(task=task, compare=[row])
        results.track(tracker, report)
    for index in range(2):
        point = {"relative_dose": 0.1, "effect": 0.5 + index, "kl": 0.25, "perplexity": 9.0}
        row = {"candidate": f"CAA {index}", "points": [point], "chosen": 0}
        tune._track(tracker, index, row)
    tracker.finish()

    rows = {row["_step"]: row for row in history_of(records_in(tmp_path / "first"))}
    assert list(rows) == [0, 1]
    assert rows[0]["compare/sea/CAA/effect"] == rows[0]["compare/mood/CAA/effect"] == 0.5
    assert [rows[step]["tune/effect"] for step in (0, 1)] == [0.5, 1.5]
    assert len(list(tmp_path.glob("first/wandb/offline-run-*/files/media/table/**/*.json"))) == 4


def test_tables_of_long_names_stay_apart(tracker_of, tmp_path):
    """wandb makes an artefact of each table, whose name may have 128 characters."""
    tracker = tracker_of("first")
    names = [f'tune/ActAdd {{"positive": "{" very" * 30} {word}"}}' for word in ("good", "bad")]
    for name in names:
        tracker.table(name, [{"kl": 0.5}])
        tracker.log(0, {"tune/kl": 0.5})
    tracker.finish()
    kept = [a.name for a in artefacts_in(records_in(tmp_path / "first"))]
    assert len({*kept}) == 2
    assert max(map(len, kept)) <= 128


def test_histograms_and_artefacts_lie_in_the_run(tracker_of, tmp_path):
    folder = tmp_path / "sae"
    folder.mkdir()
    for name in ("cfg.json", "sae_weights.safetensors", "metrics.jsonl"):
        (folder / name).write_text("{}")
    tracker = tracker_of("first")
    tracker.log(2, {"density": {"log10_edges": [-2.0, -1.0, 0.0], "counts": [3, 1]}})
    tracker.artifact("wide", folder, {"model": "tiny"})
    run_id = tracker.run_id
    tracker.finish()

    records = records_in(tmp_path / "first")
    (row,) = history_of(records)
    assert (row["density._type"], row["density.values"]) == ("histogram", [3, 1])
    assert row["density.bins"] == [-2.0, -1.0, 0.0]
    (artifact,) = artefacts_in(records)
    assert (artifact.name, artifact.type) == (f"wide-{run_id}", "sae")
    assert json.loads(artifact.metadata) == {"model": "tiny"}
    files = {entry.path for entry in artifact.manifest.contents}
    assert files == {"cfg.json", "sae_weights.safetensors"}


def test_names_that_wandb_refuses_become_others_that_stay_apart(tracker_of, tmp_path):
    (tmp_path / "sae").mkdir()
    (tmp_path / "sae" / "cfg.json").write_text("{}")
    tracker = tracker_of("first")
    long = "_".join(f"lr=0.{number}" for number in range(30))
    names = ["k=16_d_sae=64", "k-16_d_sae-64", "k.16_d_sae=64", long, f"{long}1"]
    for name in names:
        tracker.artifact(name, tmp_path / "sae", {})
    run_id = tracker.run_id
    tracker.finish()

    kept = [artefact.name for artefact in artefacts_in(records_in(tmp_path / "first"))]
    assert len({*kept}) == len(names)
    assert kept[1] == f"k-16_d_sae-64-{run_id}", "a name that wandb takes stays as it is"
    assert re.fullmatch(rf"k-16_d_sae-64-[0-9a-f]{{8}}-{run_id}", kept[0])


def test_no_account_is_one_clear_line(tracker_of, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ConfigError, match=r"wandb can't start .*; log in first, or set wandb\.m"):
        tracker_of("first", mode="online")


@pytest.mark.parametrize("failed", [False, True])
def test_a_failed_run_is_closed_as_one(tracker_of, tmp_path, failed):
    tracker_of("w").finish(failed=failed)
    assert records_in(tmp_path / "w")[-1].exit.exit_code == int(failed)


@pytest.mark.parametrize("failed", [False, True])
def test_a_command_closes_its_run_as_it_ended(tracker_of, tmp_path, failed):
    from saesteer.cli.common import wandb_run
    from saesteer.config import WandbConfig

    @dataclass
    class Settings:
        wandb: WandbConfig

    tracker_of("other").finish()  # wandb is imported, its warnings caught
    with suppress(TaskError), wandb_run(Settings(WandbConfig(project="tests")), tmp_path) as run:
        run.log(1, {"effect": 0.5})
        if failed:
            raise TaskError("nothing to compare.")
    assert records_in(tmp_path)[-1].exit.exit_code == int(failed)


def test_a_config_without_a_project_has_no_run(tmp_path):
    from saesteer.cli.common import wandb_run
    from saesteer.config import WandbConfig

    with wandb_run(SimpleNamespace(wandb=WandbConfig()), tmp_path) as run:
        assert run is None
    assert not any(tmp_path.iterdir())
