"""Plots put numbers where they belong."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from saesteer.evals.figures import Axes, effect_against_kl, forest, series_classes


def plot(make: SimpleNamespace, **changes: Any) -> tuple[str, list[str]]:
    """The main plot of made results."""
    results = make.results()
    classes = series_classes(results["compare"])
    chosen = {r["method"]: r["strength"] for r in results["compare"]}
    return effect_against_kl(results["curves"], chosen, 2.0, classes, changes.get("unit", "score"))


def test_the_plot_is_well_formed_and_draws_every_curve(make: SimpleNamespace) -> None:
    svg, _ = plot(make, unit="a < b & c")
    root = ElementTree.fromstring(svg)
    assert len(root.findall(".//polyline")) == 3
    assert "a < b & c" in "".join(root.itertext())


def test_curves_start_at_no_damage_and_no_effect(make: SimpleNamespace) -> None:
    svg, _ = plot(make)
    starts = {line.split()[0] for line in re.findall(r'points="([^"]+)"', svg)}
    assert len(starts) == 1


def test_higher_effects_are_higher_up_and_more_damage_is_further_right() -> None:
    axes = Axes(2.0, -1.0, 1.0)
    assert axes.y(0.9) < axes.y(-0.9)
    assert axes.x(1.5) > axes.x(0.2)


def test_points_beyond_the_axis_are_named_instead(make: SimpleNamespace) -> None:
    svg, notes = plot(make)
    assert notes == ["prompting at KL 5.00: effect +0.50"]
    assert "prompting" not in svg


def test_the_chosen_strength_is_filled(make: SimpleNamespace) -> None:
    assert plot(make)[0].count("mark chosen") == 3


def test_methods_have_colours_of_their_own_and_controls_are_grey(make: SimpleNamespace) -> None:
    classes = series_classes(make.results()["compare"])
    assert classes["feature"] == "s0"
    assert classes["CAA"] == "s1"
    assert classes["random direction"].startswith("c")
    assert len(set(classes.values())) == len(classes)


def test_the_forest_puts_differences_on_their_side_of_zero() -> None:
    rows = [
        {"label": "good − null", "method": "good", "difference": 0.3, "ci": [0.1, 0.5]},
        {"label": "bad − null", "method": "bad", "difference": -0.3, "ci": [-0.5, -0.1]},
    ]
    root = ElementTree.fromstring(forest(rows, {"good": "s0"}, "x"))
    zero = next(float(e.attrib["x1"]) for e in root if e.attrib.get("class") == "zero")
    good, bad = (float(e.attrib["cx"]) for e in root.iter("circle"))
    assert bad < zero < good


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_any_scale_can_be_drawn(scale: float) -> None:
    rows = [{"label": "x", "method": "x", "difference": scale, "ci": [scale, scale]}]
    ElementTree.fromstring(forest(rows, {}, "x"))


def test_nothing_to_draw_is_nothing() -> None:
    assert forest([], {}, "x") == ""
