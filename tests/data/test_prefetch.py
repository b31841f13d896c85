"""Reading ahead changes nothing: not the chunks, not their order, not the place that is saved."""

from __future__ import annotations

import threading
import time

import pytest
from counting import Counting

from saesteer.data.prefetch import Prefetched


def numbers(source, n=100):
    found = []
    while len(found) < n and (chunk := source.next_chunk()) is not None:
        found.append(int(chunk.rows[0, 0]))
    return found


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_same_chunks_in_the_same_order_and_an_end_that_stays(depth):
    source = Prefetched(Counting(), depth)
    assert numbers(source) == list(range(10))
    assert source.next_chunk() is None
    assert source.next_chunk() is None
    source.close()
    assert prefetch_threads() == []


def test_it_reads_ahead_as_far_as_was_asked_and_no_further():
    inner = Counting(end=10**6)
    source = Prefetched(inner, 3)
    source.next_chunk()
    deadline = time.monotonic() + 5
    while inner.place < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert inner.place == 5, "one taken, three ready, one in hand"
    source.close()


@pytest.mark.parametrize("taken", [0, 1, 6, 10])
def test_the_place_is_the_consumers(taken):
    source = Prefetched(Counting(), 4)
    numbers(source, taken)
    time.sleep(0.05)
    assert source.state() == {"place": taken}
    other = Prefetched(Counting(), 2)
    numbers(other, 3)
    other.restore(source.state())
    assert other.state() == source.state()
    assert numbers(other) == list(range(taken, 10))
    for each in (source, other):
        each.close()


@pytest.mark.timeout(10)
def test_an_error_comes_where_the_chunk_would_have_been_and_stays():
    source = Prefetched(Counting(bad=3), 5)
    assert numbers(source, 3) == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(ValueError, match="chunk 3 is bad"):
            source.next_chunk()
    source.close()
    assert prefetch_threads() == []


def test_nothing_is_read_while_it_is_paused():
    inner = Counting(end=10**6)
    source = Prefetched(inner, 1000)
    source.next_chunk()
    with source.paused():
        place = inner.place
        time.sleep(0.05)
        assert inner.place == place
    assert numbers(source, 20) == list(range(1, 21))
    source.close()


def test_closing_while_the_queue_is_full_ends_the_thread():
    source = Prefetched(Counting(end=10**6), 1)
    source.next_chunk()
    source.close()
    assert prefetch_threads() == []
