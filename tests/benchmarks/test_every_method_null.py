"""The verdict on a method: planted effects against planted noise."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest

from saesteer.evals.curves import Curve, Point
from saesteer.metrics.intervals import Interval

sys.path.insert(0, str(Path(__file__).parent))

N = 20


def point(effect: float, kl: float) -> Point:
    spread = tuple(effect + 0.1 * (-1) ** i for i in range(N))
    return Point(1.0, 0.1, ("",) * N, spread, spread, (kl,) * N, 3.0, 0.9, 0.0)


@pytest.mark.parametrize(
    ("effect", "kl", "verdict"),
    [
        (0.5, 0.4, "works"),
        (0.25, 0.4, "unclear"),  # what noise has there, half way along its line
        (0.5, 1.0, "unclear"),  # the same effect as the first, but noise of this KL has it too
        (-0.3, 0.4, "wrong way"),
        (0.9, 0.0, "nothing"),
        (0.9, 4.0, "ruins"),
    ],
)
def test_an_effect_counts_beyond_that_of_noise_of_the_same_kl(
    effect: float, kl: float, verdict: str
) -> None:
    import every_method_null as null

    flat: Any = (Curve("random", (point(0.6, 0.8), point(0.6, 2.0))),)
    steep: Any = (Curve("random", (point(0.4, 0.8), point(0.4, 2.0))),)
    noise = (*flat, *steep)
    (random,) = null.advantage_at_equal_kl(
        Curve("it", (point(effect, kl),), swept=False), noise, [kl]
    )
    assert null.verdict(kl, random.difference, None) == verdict
    if verdict == "works":
        assert random.against_effect == pytest.approx(0.25)
        assert random.difference is not None
        assert random.difference.mean == pytest.approx(0.25)


def test_an_effect_must_be_beyond_every_control() -> None:
    import every_method_null as null

    beyond, level, below = (Interval(m, m - 0.1, m + 0.1) for m in (0.3, 0.0, -0.3))
    assert null.verdict(0.4, beyond, beyond) == "works"
    assert null.verdict(0.4, beyond, level) == "unclear"
    assert null.verdict(0.4, level, beyond) == "unclear"
    assert null.verdict(0.4, below, beyond) == "unclear"
    assert null.verdict(0.4, below, below) == "wrong way"


def test_a_row_is_kept_for_a_run_of_the_same_settings_alone(tmp_path) -> None:
    import every_method

    asked = {"split": "validation", "dose": None, "prompts": None, "dtype": "float32"}
    args = argparse.Namespace(keep=tmp_path, methods=None, **asked)
    row = {"method": "CAA", "effect": 0.5}
    every_method._keep(args, row)
    assert every_method._kept(args, "CAA") == row
    assert every_method._kept(args, "ActAdd") is None
    for other in ({"split": "test"}, {"dose": 0.1}, {"prompts": 2}, {"dtype": "bfloat16"}):
        assert every_method._kept(argparse.Namespace(**{**vars(args), **other}), "CAA") is None
    every_method._keep(args, {"method": "CAA", "error": "x"})
    assert every_method._kept(args, "CAA") is None
