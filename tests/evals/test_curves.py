"""Laws of comparing at equal KL: measured points are exact, nothing is extrapolated, and a method
has no advantage over itself."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saesteer.evals.curves import Curve, Point, advantage_at_equal_kl, effects_at, pool


def point(kl: float, effects: tuple[float, ...], strength: float = 1.0) -> Point:
    """A point whose every prompt has the same KL."""
    return Point(
        strength=strength,
        relative_dose=0.1 * strength,
        texts=("text",) * len(effects),
        scores=effects,
        effects=effects,
        kls=(kl,) * len(effects),
        perplexity=10.0,
        distinct_2=0.9,
        seconds_per_token=0.01,
    )


def curve(*nodes: tuple[float, tuple[float, ...]], method: str = "feature") -> Curve:
    """A curve through (KL, effects) nodes."""
    return Curve(
        method, tuple(point(kl, effects, i + 1.0) for i, (kl, effects) in enumerate(nodes))
    )


RISING = curve((0.5, (0.1, 0.3)), (2.0, (0.4, 0.0)))


def test_measured_points_are_exact() -> None:
    for node in RISING.points:
        assert effects_at(RISING, node.kl) == node.effects


def test_no_damage_is_no_effect() -> None:
    assert effects_at(RISING, 0.0) == (0.0, 0.0)


def test_between_points_each_prompt_is_linear() -> None:
    assert effects_at(RISING, 1.25) == pytest.approx((0.25, 0.15))
    assert effects_at(RISING, 0.25) == pytest.approx((0.05, 0.15))


def test_nothing_is_extrapolated() -> None:
    assert effects_at(RISING, 2.0 + 1e-9) is None
    assert advantage_at_equal_kl(RISING, curve((1.0, (0.0, 0.0))), [1.5])[0].difference is None


def test_a_method_without_a_strength_is_one_point() -> None:
    prompting = Curve("prompting", (point(1.3, (0.2, 0.4)),), swept=False)
    assert effects_at(prompting, 1.3) == (0.2, 0.4)
    for elsewhere in (0.6, 1.3 * 1.01, 1.3 / 1.01):
        assert effects_at(prompting, elsewhere) is None


def test_points_may_come_in_any_order_of_kl() -> None:
    backwards = Curve("feature", RISING.points[::-1])
    assert effects_at(backwards, 1.1) == effects_at(RISING, 1.1)


def test_equal_kls_do_not_divide_by_zero() -> None:
    flat = curve((1.0, (0.2,)), (1.0, (0.4,)), (2.0, (0.4,)))
    found = effects_at(flat, 1.0)
    assert found is not None
    assert 0.2 <= found[0] <= 0.4


effect_rows = st.lists(st.tuples(*[st.floats(-2, 2, allow_nan=False)] * 3), min_size=1, max_size=4)


@settings(deadline=None)
@given(effect_rows, st.floats(0, 1))
def test_interpolated_effects_lie_between_their_neighbours(
    rows: list[tuple[float, ...]], share: float
) -> None:
    measured = curve(*((float(i + 1), effects) for i, effects in enumerate(rows)))
    kl = share * len(rows)
    found = effects_at(measured, kl)
    nodes = [(0.0,) * 3, *rows]
    low, high = nodes[int(kl)], nodes[min(int(kl) + 1, len(rows))]
    assert found is not None
    for value, a, b in zip(found, low, high, strict=True):
        assert min(a, b) - 1e-9 <= value <= max(a, b) + 1e-9


@settings(deadline=None)
@given(effect_rows, st.floats(0.01, 0.99))
def test_no_advantage_over_itself(rows: list[tuple[float, ...]], share: float) -> None:
    measured = curve(*((float(i + 1), effects) for i, effects in enumerate(rows)))
    (found,) = advantage_at_equal_kl(measured, measured, [share * len(rows)])
    assert found.difference is not None
    assert (found.difference.mean, found.difference.low, found.difference.high) == (0, 0, 0)
    assert not found.certain


def test_advantage_is_antisymmetric() -> None:
    rng = random.Random(0)
    rows = [[tuple(rng.gauss(0, 1) for _ in range(9)) for _ in range(2)] for _ in range(2)]
    a, b = (
        curve((1.0, r[0]), (2.0, r[1]), method=name) for name, r in zip("ab", rows, strict=True)
    )
    (forth,), (back,) = advantage_at_equal_kl(a, b, [1.4]), advantage_at_equal_kl(b, a, [1.4])
    assert forth.difference is not None
    assert back.difference is not None
    assert forth.difference.mean == pytest.approx(-back.difference.mean)
    assert forth.difference.low == pytest.approx(-back.difference.high, abs=0.05)


def test_a_shift_of_every_prompt_is_certain_however_much_prompts_differ() -> None:
    """The bootstrap is paired: the spread between prompts, here 100 times the shift, drops out."""
    base = tuple(float(i * 10) for i in range(12))
    null = curve((1.0, base), method="random direction")
    better = curve((1.0, tuple(x + 0.1 for x in base)))
    (found,) = advantage_at_equal_kl(better, null, [1.0])
    assert found.difference is not None
    assert found.certain
    assert found.difference.low == pytest.approx(0.1)
    assert found.difference.high == pytest.approx(0.1)


def test_noise_alone_is_seldom_certain() -> None:
    """A 95 % interval of nothing excludes zero in about one case of twenty; 25 of 100 would not."""
    rng = random.Random(1)
    hits = 0
    for _ in range(100):
        a, b = (curve((1.0, tuple(rng.gauss(0, 1) for _ in range(24)))) for _ in range(2))
        hits += advantage_at_equal_kl(a, b, [1.0])[0].certain
    assert 0 < hits < 20


def test_several_seeds_are_one_null() -> None:
    null = [curve((1.0, (0.1, 0.1)), method="random"), curve((1.0, (0.3, -0.1)), method="random")]
    (found,) = advantage_at_equal_kl(curve((1.0, (1.0, 1.0))), null, [1.0])
    assert found.against_effect == pytest.approx(0.1)
    assert found.each == pytest.approx((0.1, 0.1))
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(0.9)


def test_random_directions_that_differ_leave_doubt() -> None:
    """0.1 above two that lie 0.4 apart is nothing; above two that agree it is something."""
    mine = curve((1.0, (0.1,) * 9))
    apart = [curve((1.0, (shift,) * 9)) for shift in (-0.2, 0.2)]
    alike = [curve((1.0, (0.0,) * 9))] * 2
    assert not advantage_at_equal_kl(mine, apart, [1.0])[0].certain
    assert advantage_at_equal_kl(mine, alike, [1.0])[0].certain


def test_a_seed_that_ends_early_ends_the_comparison() -> None:
    null = [curve((1.0, (0.1,))), curve((0.2, (0.3,)))]
    (found,) = advantage_at_equal_kl(curve((1.0, (1.0,))), null, [0.5])
    assert not found.reached
    assert found.effect == pytest.approx(0.5)


def test_pooling_copies_changes_nothing_but_the_spread_of_seeds() -> None:
    assert pool([RISING, RISING]) == RISING
    other = curve((0.7, (0.3, 0.1)), (1.0, (0.0, 0.0)), (3.0, (9.0, 9.0)))
    mixed = pool([RISING, other])
    assert len(mixed.points) == 2
    assert mixed.points[0].effects == pytest.approx((0.2, 0.2))
    assert mixed.points[0].kl == pytest.approx(0.6)


def test_anti_steered_counts_prompts_that_moved_the_wrong_way() -> None:
    assert point(1.0, (0.5, -0.1, 0.0, -1e-12)).anti_steered == 0.25
