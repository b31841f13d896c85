"""A cache is filled by one run at a time, until it lasts every process to its last step."""

from __future__ import annotations

import json
from bisect import bisect_left

import pytest

from saesteer.config import CacheConfig
from saesteer.errors import DataError, OutputError, TextEndedError
from saesteer.files import locked
from saesteer.training.distributed import World
from saesteer.training.sae import open_trainer
from saesteer.training.signals import StopRequest
from saesteer.training.streams import columns_of, fill_cache, open_stream


class Agreed(World):
    """A process that the others agree with."""

    def most(self, number):
        return number


def shards_of(config) -> list[dict]:
    with open(f"{config.cache.path}/manifest.json") as file:
        return json.load(file)["shards"]


def steps_of(config, model, rank, size) -> int:
    """How many batches a process of a world can draw."""
    stream, n = open_stream(config, model, columns_of(config, model), Agreed(rank, size)), 0
    while n < config.n_steps and stream.next_batch() is not None:
        n += 1
    return n


@pytest.fixture
def cached(settings, tmp_path):
    """Settings of so many steps, over a cache of its own."""

    def make(n_steps, rows_per_shard=300, passes=1, **changes):
        cache = CacheConfig(str(tmp_path / "cache"), passes=passes, rows_per_shard=rows_per_shard)
        usual = {"shuffle_batches": 1, "batch_size": 32}
        return settings(cache=cache, n_tokens=32 * n_steps, **{**usual, **changes})

    return make


def test_two_runs_do_not_fill_one_cache_together(cached, model, run, tmp_path):
    config = cached(20)
    with locked(tmp_path / "cache"), pytest.raises(OutputError, match="another process is at work"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert run(config, tmp_path / "run")
    with locked(tmp_path / "cache"):
        assert run(config, tmp_path / "second"), "a full cache is only read"


def test_a_run_stopped_while_it_fills_lets_go_of_the_cache(cached, model, tmp_path):
    assert not fill_cache(cached(20), model, StopRequest(15))
    with locked(tmp_path / "cache"):
        pass
    assert fill_cache(cached(20), model, StopRequest())


PAIR = Agreed(0, 2)
"""Of three shards, which is all the text, one of them has two and the other one."""


def test_a_share_that_ends_too_soon_is_said_before_the_first_step(cached, model):
    config = cached(10**4, rows_per_shard=3200)
    with pytest.raises(DataError, match="the text ended when"):
        fill_cache(config, model, StopRequest(), world=PAIR)
    n_rows = [shard["rows"] for shard in shards_of(config)]
    assert len(n_rows) == 3
    even = cached(sum(n_rows) // 32 - 2, rows_per_shard=3200)
    with pytest.raises(
        DataError,
        match=r"the smallest share of 2 processes lacks \d,\d+ of them\..* start fewer processes",
    ):
        fill_cache(even, model, StopRequest(), world=PAIR)
    assert fill_cache(even, model, StopRequest()), "one process has all of it"


@pytest.mark.parametrize("passes", [1, 2])
def test_the_smallest_share_is_known_to_the_step(cached, model, passes):
    def fills(n_steps):
        try:
            return fill_cache(config(n_steps), model, StopRequest(), world=PAIR)
        except DataError:
            return False

    def config(n_steps):
        return cached(n_steps, rows_per_shard=3200, passes=passes)

    last = bisect_left(range(700), True, lo=100, key=lambda n: not fills(n)) - 1
    assert [steps_of(config(last), model, rank, 2) for rank in (0, 1)] == [last] * 2
    assert min(steps_of(config(last + 1), model, rank, 2) for rank in (0, 1)) == last


@pytest.mark.parametrize("n_steps", range(28, 36))
def test_shards_are_written_until_they_last_every_process(cached, model, n_steps):
    """A shard is larger than was asked for by almost a pass of the model."""
    config = cached(n_steps, rows_per_shard=129, rows_per_pass=8)
    assert fill_cache(config, model, StopRequest(), world=Agreed(0, 2))
    assert [steps_of(config, model, rank, 2) for rank in (0, 1)] == [n_steps] * 2


def test_a_cache_that_ends_early_all_the_same_is_told_what_helps(cached, model):
    assert fill_cache(cached(10), model, StopRequest())
    trainer = open_trainer(cached(1000), model)
    with pytest.raises(TextEndedError, match=r"32,000 tokens; start again with a larger cache\.pa"):
        list(iter(trainer.step, None))


def test_all_processes_share_the_shards_that_each_of_them_sees(cached, model):
    """Another run may add shards between one process's look at the manifest and the next one's."""

    class Behind(World):
        def most(self, number):
            return max(number, -2)  # the other process sees 2 shards

    assert fill_cache(cached(30), model, StopRequest())
    assert len(shards_of(cached(30))) > 2
    config = cached(30)
    stream = open_stream(config, model, columns_of(config, model), Behind(0, 2))
    assert stream.state()[0]["source"]["source"]["shards"] == 2
