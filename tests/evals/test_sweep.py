"""Strengths: chosen within the budget, on a grid that stops when it is spent."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from saesteer.errors import TaskError
from saesteer.evals import sweep
from saesteer.evals.curves import Curve, Point
from saesteer.evals.measure import Bench
from saesteer.evals.sweep import (
    MAX_STRETCHES,
    STRETCH,
    Entry,
    Swept,
    calibrate,
    check_doses,
    choose,
    curve_on_validation,
    curves_on_test,
    within,
)
from saesteer.steer import Plan, add

GRID = (0.1, 0.2, 0.4)


def point(kl: float, effect: float = 0.0, strength: float = 1.0) -> Point:
    return Point(strength, strength, ("x",), (effect,), (effect,), (kl,), 9.0, 0.9, 0.01)


def swept(n_plans: int = 1) -> Swept:
    """Plans whose strength is their dose."""
    entry = Entry("mine", "dense", tuple(Plan(name="mine") for _ in range(n_plans)))
    return Swept(entry, GRID, (1.0,) * n_plans)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every strength that is measured; KL is 5 nats a unit of strength."""
    seen: list[float] = []

    def measured(_bench: Any, plan: Plan) -> Point:
        seen.append(plan.strength)
        return point(5 * plan.strength, strength=plan.strength)

    monkeypatch.setattr(sweep, "measure", measured)
    return seen


def ignore(_what: str) -> None: ...


NO_BENCH: Any = object.__new__(Bench)
A_BENCH: Any = object.__new__(Bench)
object.__setattr__(A_BENCH, "prompts", ("x",) * 6)


def test_the_largest_effect_within_the_budget_is_chosen() -> None:
    curve = Curve("x", (point(0.5, 0.1), point(1.9, 0.4), point(2.1, 0.9)))
    assert choose(curve, 2.0) == 1
    assert choose(curve, 3.0) == 2
    assert choose(curve, 0.6) == 0


def test_a_budget_may_count_something_else_than_kl() -> None:
    curve = Curve("x", (point(5.0, 0.9, strength=1), point(1.0, 0.1, strength=3)))
    assert within(curve, 2.0) == 1
    assert within(curve, 2.0, lambda p: p.strength) == 0
    assert within(curve, 0.5) is None


def test_with_nothing_within_the_budget_the_least_damage_is_chosen() -> None:
    assert choose(Curve("x", (point(5.0, 0.9), point(3.0, 0.1))), 2.0) == 1


@pytest.mark.usefixtures("runs")
def test_validation_stops_once_the_budget_is_spent() -> None:
    curve = curve_on_validation(NO_BENCH, swept(), 0.9, ignore)
    assert [p.strength for p in curve.points] == [0.1, 0.2]


@pytest.mark.usefixtures("runs")
def test_a_gentle_method_is_run_further_but_not_for_ever() -> None:
    stretched = [0.4 * STRETCH**i for i in range(1, MAX_STRETCHES + 1)]
    curve = curve_on_validation(NO_BENCH, swept(), 2.5, ignore)
    assert [p.strength for p in curve.points] == pytest.approx([*GRID, stretched[0]])
    curve = curve_on_validation(NO_BENCH, swept(), 1e9, ignore)
    assert [p.strength for p in curve.points] == pytest.approx([*GRID, *stretched])


def test_test_runs_the_same_doses_for_every_seed(runs: list[float]) -> None:
    curves = curves_on_test(NO_BENCH, swept(2), 2, 0.0, ignore)
    assert [[p.strength for p in c.points] for c in curves] == [[0.1, 0.2]] * 2
    assert runs == [0.1, 0.1, 0.2, 0.2]


@pytest.mark.usefixtures("runs")
def test_test_goes_on_until_the_compared_kl_is_reached() -> None:
    (curve,) = curves_on_test(NO_BENCH, swept(), 1, 1.9, ignore)
    assert [p.strength for p in curve.points] == [0.1, 0.2, 0.4]


@pytest.mark.usefixtures("runs")
def test_test_has_one_dose_to_spare() -> None:
    last = 0.4 * STRETCH**MAX_STRETCHES
    (curve,) = curves_on_test(NO_BENCH, swept(), 1, 5 * last + 0.01, ignore)
    assert curve.points[-1].strength == pytest.approx(last * STRETCH)


@pytest.mark.usefixtures("runs")
def test_a_plan_without_a_strength_is_one_point() -> None:
    single = Swept(swept().entry, (), (0.0,))
    assert len(curve_on_validation(NO_BENCH, single, 2.0, ignore).points) == 1
    (curve,) = curves_on_test(NO_BENCH, single, 1, 99.0, ignore)
    assert len(curve.points) == 1
    assert not curve.swept


def test_grids_are_sorted_and_checked() -> None:
    assert check_doses([0.3, 0.1, 0.3]) == (0.1, 0.3)
    for bad in ([], [0.0], [0.1, -0.1]):
        with pytest.raises(TaskError, match="doses are"):
            check_doses(bad)


def test_a_method_without_a_strength_is_one_point_as_fitted(
    runs: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "dose_of", lambda *_: 0.5)
    plans = (Plan(add("resid_post.0", torch.ones(4)), name="out", strength=1.0),)
    for has_strength, measured in ((False, [1.0]), (True, [0.2, 0.4, 0.8])):
        runs.clear()
        found = calibrate(A_BENCH, Entry("out", "dense", plans, has_strength), GRID)
        curve_on_validation(NO_BENCH, found, 1e9, ignore)
        assert found.swept == has_strength
        assert runs[: len(measured)] == measured
        assert has_strength or len(runs) == 1


@pytest.mark.usefixtures("runs")
def test_a_plan_keeps_its_sign_and_its_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan taken away is swept as such; one of strength 0 is what it is."""
    monkeypatch.setattr(sweep, "dose_of", lambda _bench, plan, _n: abs(plan.strength) / 2)
    edit = add("resid_post.0", torch.ones(4))
    for strength, expected in ((-3.0, [-0.2, -0.4, -0.8]), (2.0, [0.2, 0.4, 0.8]), (0.0, [0.0])):
        found = calibrate(A_BENCH, Entry("x", "plan", (Plan(edit).with_strength(strength),)), GRID)
        points = curve_on_validation(A_BENCH, found, 1e9, ignore, stretches=0).points
        assert [p.strength for p in points] == pytest.approx(expected)


def test_a_gate_that_stays_shut_on_the_first_prompts_is_read_on_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep, "dose_of", lambda _bench, _plan, n: 0.5 if n == 6 else 0.0)
    entry = Entry("x", "plan", (Plan(add("resid_post.0", torch.ones(4))),))
    assert calibrate(A_BENCH, entry, GRID).units == (0.5,)


def test_one_dose_is_no_grid() -> None:
    with pytest.raises(TaskError, match="doses is 0.1; give a list of them"):
        inspect.unwrap(check_doses)(0.1)
