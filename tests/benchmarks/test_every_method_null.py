"""The verdict on a method: planted effects against planted noise."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from saesteer.evals.curves import Curve, Point

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
    trial = null.Trial(bench=None, null=noise)  # type: ignore[arg-type]
    found = null._beyond_noise(trial, "it", point(effect, kl))
    assert found["verdict"] == verdict
    if verdict == "works":
        assert found["random_effect"] == pytest.approx(0.25)
        assert found["over_random"][0] == pytest.approx(0.25)
