"""The shuffle ring draws every row as often as it should, mixed, and goes on exactly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saesteer.data.ring import ShuffleRing, rows_taken

SIZES = st.tuples(st.integers(1, 7), st.integers(1, 5))
FEW = settings(max_examples=50, deadline=None)


def make(batch_size=4, batches=3, seed=0, reuse=1, dtype=torch.float32):
    return ShuffleRing(2, batch_size, batches, seed=seed, dtype=dtype, reuse=reuse)


class Feed:
    """Rows numbered from 0, handed on in uneven pieces."""

    def __init__(self, n_rows: int, start: int = 0) -> None:
        numbers = torch.arange(start, n_rows, dtype=torch.float32)
        self.rows = torch.stack([numbers, -numbers], -1)

    def fill(self, ring: ShuffleRing) -> bool:
        while ring.wants and len(self.rows):
            piece, self.rows = self.rows[:5], self.rows[5:]
            self.rows = torch.cat([ring.add(piece), self.rows])
        return ring.wants == 0


def draw_all(ring, feed):
    drawn = []
    while feed.fill(ring):
        batch = ring.draw()
        assert batch.shape == (ring.batch_size, 2)
        assert torch.equal(batch[:, 0], -batch[:, 1]), "a row was torn"
        drawn.append(batch[:, 0].long().tolist())
    return drawn


@given(SIZES, st.integers(0, 300), st.integers(0, 3))
@FEW
def test_no_row_comes_twice_and_only_the_last_stay_behind(sizes, n_rows, seed):
    batch_size, batches = sizes
    drawn = sum(draw_all(make(batch_size, batches, seed), Feed(n_rows)), [])
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(range(n_rows))
    assert n_rows - len(drawn) <= 2 * batch_size * batches


def test_rows_are_mixed_over_the_whole_ring():
    drawn = draw_all(make(8, 4), Feed(2000))
    first = sum(drawn[:4], [])
    assert sorted(first) != first
    assert max(first) >= 48, "the first refill reaches only part of the ring"
    assert all(max(batch) - min(batch) > 8 for batch in drawn)
    waits = [index * 8 - row for index, batch in enumerate(drawn) for row in batch]
    assert max(waits) > 64, "no row waits longer than one refill"


def test_the_seed_is_the_order():
    assert draw_all(make(seed=1), Feed(200)) == draw_all(make(seed=1), Feed(200))
    assert draw_all(make(seed=1), Feed(200)) != draw_all(make(seed=2), Feed(200))


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    draw_all(make(), Feed(100))
    assert torch.equal(torch.get_rng_state(), before)


@given(SIZES, st.integers(0, 60), st.integers(1, 3))
@FEW
def test_a_restored_ring_goes_on_exactly(sizes, n_before, reuse):
    ring, feed = make(*sizes, seed=5, reuse=reuse), Feed(400)
    for _ in range(n_before):
        if feed.fill(ring):
            ring.draw()
    state = {name: value.clone() for name, value in ring.state().items()}
    rest = feed.rows.clone()
    expected = draw_all(ring, feed)
    other = make(*sizes, seed=99, reuse=reuse)
    other.restore(state)
    feed.rows = rest
    assert draw_all(other, feed) == expected


def test_a_state_in_the_middle_of_a_refill_is_exact():
    ring = make()
    left = ring.add(Feed(10).rows)
    assert len(left) == 0
    state = {name: value.clone() for name, value in ring.state().items()}
    other = make(seed=7)
    other.restore(state)
    assert draw_all(other, Feed(60, start=10)) == draw_all(ring, Feed(60, start=10))


@pytest.mark.parametrize("reuse", [1, 2, 3, 4])
def test_reuse_is_the_mean_number_of_draws(reuse):
    ring, feed = make(4, 12, reuse=reuse), Feed(6000)
    drawn = torch.tensor(sum(draw_all(ring, feed), []))
    counts = torch.bincount(drawn, minlength=6000)[:5000].float()
    assert counts.mean() == pytest.approx(reuse, rel=0.05)
    assert counts.min() >= 1
    if reuse == 1:
        assert counts.max() == 1


def test_rows_are_kept_in_the_rings_dtype():
    ring = make(1, 1, dtype=torch.bfloat16)
    ring.add(torch.tensor([[1.0, -1.0], [2.0, -2.0]]))
    assert ring.draw().dtype == torch.bfloat16


def test_what_finds_no_room_comes_back():
    ring = make(2, 1)
    assert ring.wants == 4
    left = ring.add(Feed(7).rows)
    assert left[:, 0].tolist() == [4, 5, 6]
    assert ring.wants == 0
    assert ring.add(left) is not None
    assert len(ring.add(left)) == 3


def test_an_unfilled_ring_gives_nothing():
    with pytest.raises(AssertionError, match="not full"):
        make().draw()


@given(SIZES, st.integers(1, 3), st.integers(1, 20))
@FEW
def test_the_rows_that_so_many_batches_take_are_known(sizes, reuse, n_batches):
    batch_size, batches = sizes
    taken = rows_taken(batch_size, batches, reuse, n_batches)
    for n_rows, lasts in ((taken, True), (taken - 1, False)):
        feed, ring = Feed(n_rows), make(batch_size, batches, reuse=reuse)
        n_drawn = 0
        while n_drawn < n_batches and feed.fill(ring):
            ring.draw()
            n_drawn += 1
        assert (n_drawn == n_batches) is lasts
