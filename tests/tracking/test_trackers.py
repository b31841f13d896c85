"""Figures arrive where they are sent; a file is cut back to the step that a run resumes from."""

from __future__ import annotations

import io
import json
import math
from contextlib import nullcontext

import pytest

from saesteer.errors import OutputError
from saesteer.tracking import JsonlTracker, NoTracker, Tracker, Trackers, finishing

ROWS = [{"method": "CAA", "effect": 0.5}, {"method": "clamp", "effect": 0.75}]


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def log_steps(tracker: Tracker, steps):
    for step in steps:
        tracker.log(step, {"loss": 1 / step})
    tracker.finish()


def test_a_line_per_call(tmp_path):
    path = tmp_path / "m.jsonl"
    tracker = JsonlTracker(path)
    tracker.log(1, {"loss": 0.5, "l0": 32.0})
    assert lines_of(path) == [{"step": 1, "loss": 0.5, "l0": 32.0}], "lines wait in a buffer"
    tracker.table("methods", ROWS)
    tracker.finish()
    assert lines_of(path)[1] == {"table": "methods", "rows": ROWS}


def test_numbers_that_are_not_finite_are_null(tmp_path):
    path = tmp_path / "m.jsonl"
    tracker = JsonlTracker(path)
    tracker.log(1, {"fvu": math.inf, "density": {"counts": [1, 2], "edges": (0.5, -math.inf)}})
    tracker.table("methods", [{"method": "CAA", "effect": math.nan}])
    tracker.finish()
    assert path.read_text() == (
        '{"step": 1, "fvu": null, "density": {"counts": [1, 2], "edges": [0.5, null]}}\n'
        '{"table": "methods", "rows": [{"method": "CAA", "effect": null}]}\n'
    )


def test_a_new_run_starts_a_new_file(tmp_path):
    path = tmp_path / "m.jsonl"
    log_steps(JsonlTracker(path), [1, 2, 3])
    log_steps(JsonlTracker(path), [1])
    assert [line["step"] for line in lines_of(path)] == [1]


def test_a_resumed_run_cuts_the_file_back(tmp_path):
    path = tmp_path / "m.jsonl"
    log_steps(JsonlTracker(path), [1, 2, 3, 4, 5])
    log_steps(JsonlTracker(path, resume_step=3), [4, 5, 6])
    assert lines_of(path) == [{"step": step, "loss": 1 / step} for step in range(1, 7)]
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


@pytest.mark.parametrize("damaged", [b'{"step": 2, "lo', b"[1]", b'{"step": null}', b"\xff\xfe"])
@pytest.mark.parametrize("after", [b"", b'\n{"step": 2, "loss": 0.5}'], ids=["last", "amid"])
def test_a_damaged_line_is_dropped(tmp_path, damaged, after):
    path = tmp_path / "m.jsonl"
    log_steps(JsonlTracker(path), [1] if after else [1, 2])
    with path.open("ab") as file:
        file.write(damaged + after)
    log_steps(JsonlTracker(path, resume_step=2), [3])
    assert [line["step"] for line in lines_of(path)] == [1, 2, 3]


def test_a_run_may_resume_without_its_file(tmp_path):
    path = tmp_path / "m.jsonl"
    log_steps(JsonlTracker(path, resume_step=5), [6])
    assert [line["step"] for line in lines_of(path)] == [6]


def test_a_file_that_cant_be_opened(tmp_path):
    with pytest.raises(OutputError, match=r"m\.jsonl can't be written: No such file"):
        JsonlTracker(tmp_path / "missing" / "m.jsonl")


def test_a_disk_that_fills_up(tmp_path):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(28, "No space left on device")

    tracker = JsonlTracker(tmp_path / "m.jsonl")
    tracker.finish()
    tracker._file = Full()
    with pytest.raises(OutputError, match=r"m\.jsonl can't be written: No space left on device"):
        tracker.log(1, {"loss": 1.0})


class Memory:
    """Remembers its calls."""

    def __init__(self):
        self.calls = []

    def log(self, step, figures):
        self.calls.append(("log", step, dict(figures)))

    def table(self, name, rows):
        self.calls.append(("table", name, list(rows)))

    def artifact(self, name, folder, lineage, kind="sae"):
        self.calls.append(("artifact", name, folder, dict(lineage)))

    def finish(self, *, failed=False):
        self.calls.append(("finish", failed))


def test_several_trackers_are_one():
    one, two = Memory(), Memory()
    both = Trackers(one, NoTracker(), two)
    both.log(3, {"loss": 1.0})
    both.table("methods", ROWS)
    both.finish(failed=True)
    assert one.calls == [("log", 3, {"loss": 1.0}), ("table", "methods", ROWS), ("finish", True)]
    assert two.calls == one.calls


def test_no_tracker_takes_everything():
    tracker = NoTracker()
    assert tracker.log(1, {"a": 1.0}) is None
    assert tracker.table("t", ROWS) is None
    assert tracker.finish() is None


@pytest.mark.parametrize(
    ("ended_by", "failed"), [(None, False), (OutputError("no"), True), (KeyboardInterrupt(), False)]
)
def test_what_ends_the_work_says_whether_it_failed(ended_by, failed):
    memory = Memory()
    with pytest.raises(type(ended_by)) if ended_by else nullcontext(), finishing(memory) as tracker:
        assert tracker is memory
        if ended_by:
            raise ended_by
    assert memory.calls == [("finish", failed)]
