"""Shares of one text: together the whole of it, in any number, also when the number changes."""

from __future__ import annotations

import json

import pytest
import torch
from counting import Counting

from saesteer.data.activations import ActivationStream
from saesteer.data.ring import ShuffleRing
from saesteer.data.share import Share, joint_place
from saesteer.data.sources import Chunk

BATCH = 24
BATCHES = 3
N_CHUNKS = 400


class Uneven(Counting):
    """Chunks of 1 to 7 rows, numbered through, so that shares fall out of step."""

    def next_chunk(self):
        if super().next_chunk() is None:
            return None
        number = self.place - 1
        first = sum(map(self.size_of, range(number)))
        rows = torch.arange(first, first + self.size_of(number), dtype=torch.float32)
        return Chunk(torch.stack([rows, -rows], -1), len(rows) + 1, 1)

    @staticmethod
    def size_of(number):
        return 1 + (number * number) % 7


ALL_ROWS = sum(map(Uneven.size_of, range(N_CHUNKS)))


def numbers(source):
    found = []
    while (chunk := source.next_chunk()) is not None:
        found.append(int(chunk.rows[0, 0]))
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_dealt_in_turn(size):
    shares = [Share(Counting(), rank, size) for rank in range(size)]
    assert [numbers(share) for share in shares] == [list(range(10))[r::size] for r in range(size)]
    assert all(share.next_chunk() is None for share in shares)


def test_a_chunk_passed_over_is_not_made():
    share = Share(Counting(bad=2), 1, 3)
    assert [int(share.next_chunk().rows[0, 0]) for _ in range(2)] == [1, 4]


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_restored_share_goes_on(taken):
    share, again = Share(Counting(), 1, 2), Share(Counting(), 1, 2)
    for _ in range(taken):
        share.next_chunk()
    numbers(again)
    again.restore(json.loads(json.dumps(share.state())))
    assert numbers(again) == numbers(share) == [1, 3, 5, 7, 9][taken:]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (4, 2), (2, 3), (4, 1)])
def test_another_number_of_shares_takes_what_none_has_taken(before, after):
    shares = [Share(Counting(40), rank, before) for rank in range(before)]
    taken = [int(s.next_chunk().rows[0, 0]) for i, s in enumerate(shares) for _ in range(2 * i)]
    later = [Share(Counting(40), rank, after) for rank in range(after)]
    place = joint_place([share.state() for share in shares])
    for share in later:
        share.restore(place)
    taken += [int(later[0].next_chunk().rows[0, 0]) for _ in range(5)]
    last = Share(Counting(40))
    last.restore(joint_place([share.state() for share in later]))
    assert sorted(taken + numbers(last)) == list(range(40))


def streams_of(size, reuse=1):
    rings = [
        ShuffleRing(2, BATCH // size, BATCHES, seed=r, dtype=torch.float32, reuse=reuse)
        for r in range(size)
    ]
    return [
        ActivationStream(Share(Uneven(N_CHUNKS), rank, size), ring)
        for rank, ring in enumerate(rings)
    ]


def draw(streams, n_steps):
    """Rows of so many steps, fewer where a stream has ended."""
    drawn = []
    for _ in range(n_steps):
        batches = [stream.next_batch() for stream in streams]
        if any(batch is None for batch in batches):
            break
        drawn += [int(row) for batch in batches for row in batch[:, 0]]
    return drawn


def hand_over(streams, size, reuse=1):
    """The same stream in another number of parts, by way of what a checkpoint holds."""
    states = [stream.state() for stream in streams]
    parts = [(json.loads(json.dumps(place)), dict(tensors)) for place, tensors in states]
    later = streams_of(size, reuse)
    for rank, stream in enumerate(later):
        stream.take_over(parts, rank, size)
    return later


@pytest.mark.parametrize("n_steps", [1, 2, 3, 5, 9], ids="after {} steps".format)
@pytest.mark.parametrize("sizes", [(4, 2, 1), (1, 2, 4), (2, 3, 2), (3, 1)], ids=str)
def test_no_row_is_drawn_twice_or_lost_when_the_number_of_streams_changes(sizes, n_steps):
    streams = streams_of(sizes[0])
    drawn = draw(streams, n_steps)
    for size in sizes[1:]:
        streams = hand_over(streams, size)
        drawn += draw(streams, n_steps)
    assert len(drawn) == len(sizes) * n_steps * BATCH
    n_read = sum(stream.n_read - stream.n_outliers for stream in streams)
    waiting = [int(row) for stream in streams for row in left_in(stream)]
    assert sorted(drawn + waiting) == sorted(set(drawn + waiting))
    assert len(drawn + waiting) == n_read
    drawn += draw(hand_over(streams, 1), 10_000)
    assert len(set(drawn)) == len(drawn) > ALL_ROWS - 2 * BATCH * BATCHES - 7


def left_in(stream):
    """Rows read and not drawn, told from what a checkpoint would hold."""
    _, tensors = stream.state()
    rows = tensors["ring.rows"][tensors["ring.order"]][:, 0]
    filled, drawn = (int(n) for n in tensors["ring.counts"])
    full = filled == len(rows)
    return [*rows[drawn if full else 0 : filled], *tensors.get("spare", rows[:0, None])[:, 0]]


@pytest.mark.parametrize("n_steps", [2, 3, 6])
def test_reused_rows_are_handed_over_with_the_others(n_steps):
    streams = streams_of(4, reuse=2)
    drawn = draw(streams, n_steps)
    drawn += draw(hand_over(streams, 2, reuse=2), 10_000)
    counts = torch.bincount(torch.tensor(drawn), minlength=ALL_ROWS)
    n_lost = int((counts == 0).sum())
    assert n_lost <= 2 * BATCH * BATCHES + 7
    assert counts.sum() / (counts > 0).sum() == pytest.approx(2, rel=0.1)
