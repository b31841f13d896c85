"""What a progress line says of the time that is left."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

import pytest

from saesteer.cli import common


@pytest.fixture
def lines(monkeypatch, capsys):
    """The lines that calls print, each of (second, done, total)."""

    def shown(calls):
        now = [0.0]
        monkeypatch.setattr(common.time, "monotonic", lambda: now[0])
        progress = common.Progress("work", quiet=False)
        for second, done, total in calls:
            now[0] = float(second)
            progress(done, total)
        printed = capsys.readouterr().err.splitlines()
        return [line.removeprefix("work: ").strip() for line in printed]

    return shown


def test_the_rest_takes_as_long_a_step_as_what_is_done(lines):
    calls = [(4 * step, step, 100) for step in range(1, 12)]
    assert lines(calls) == ["3/100, 388 s left", "6/100, 376 s left", "9/100, 364 s left"]


def test_work_behind_other_work_has_its_own_speed(lines):
    """Filling a cache takes 600 s here, and a step of training 2."""
    filling = [(300, 50_000, 100_000), (600, 100_000, 100_000)]
    training = [(600 + 2 * step, step, 50) for step in range(1, 8)]
    assert lines([*filling, *training]) == [
        "50000/100000",
        "100000/100000, 0 s left",
        "5/50, 90 s left",
    ]


def test_a_resumed_run_counts_what_it_did_itself(lines):
    calls = [(1 + 5 * step, 500 + step, 600) for step in range(1, 5)]
    assert lines(calls) == ["502/600, 490 s left", "504/600, 480 s left"]


def test_steps_that_grow_slower_are_not_told_by_the_fast_ones(lines):
    """A hundred steps of a fifth of a second, then some of eight seconds."""
    fast = [(0.2 * step, step, 120) for step in range(1, 101)]
    slow = [(20 + 8 * step, 100 + step, 120) for step in range(1, 11)]
    shown = lines([*fast, *slow])
    assert shown[0] == "50/120, 14 s left"
    assert shown[-1] == "110/120, 80 s left"


def test_only_one_bar_is_drawn_at_a_time(monkeypatch):
    """Two live displays of a terminal write over each other, ten times a second."""
    from saesteer.cli import compare

    closed = []

    class Watched(common.Progress):
        def close(self):
            closed.append(self._title)

    monkeypatch.setattr(compare, "Progress", Watched)
    with ExitStack() as stack:
        begin = compare._bars(argparse.Namespace(quiet=False), stack)
        begin("scoring the SAE")
        begin("steering by every method")
        assert closed == ["scoring the SAE"]
    assert closed == ["scoring the SAE", "steering by every method"]
