"""A cache gives back what was written, and never something else."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from counting import Counting

from saesteer.data.cache import ActivationCache, CachedSource
from saesteer.data.sources import Chunk
from saesteer.errors import DataError, OutputError
from saesteer.files import locked

IDENTITY = {"model": "tiny", "sites": ["resid_post.1"]}


@pytest.fixture
def open_cache(tmp_path):
    def make(*, dtype=torch.float32, rows_per_shard=5, **identity):
        return ActivationCache(
            tmp_path / "cache",
            {**IDENTITY, **identity},
            width=3,
            dtype=dtype,
            rows_per_shard=rows_per_shard,
        )

    return make


def rows_of(source):
    found = []
    while (chunk := source.next_chunk()) is not None:
        found.append(chunk.rows)
    return torch.cat(found)[:, 0].tolist() if found else []


def fill(cache, source, n_rows):
    for _ in cache.fill(source, n_rows):
        pass


WHOLE = [float(i // 2) for i in range(20)]


def test_the_first_pass_is_the_sources_own_order(open_cache):
    cache = open_cache()
    fill(cache, Counting(), 20)
    assert rows_of(CachedSource(open_cache())) == WHOLE
    assert sorted(path.name for path in cache.folder.iterdir()) == [
        "manifest.json",
        *(f"shard-0000{i}.safetensors" for i in range(4)),
    ]


def test_a_shard_passed_over_is_not_read(open_cache):
    cache = open_cache()
    fill(cache, Counting(), 20)
    cache.path_of(0).unlink()
    source = CachedSource(cache)
    assert source.skip()
    assert rows_of(source) == WHOLE[6:]
    twice = CachedSource(cache, passes=2)
    assert [twice.skip() for _ in range(10)] == [True] * 8 + [False] * 2


def test_later_passes_are_the_same_shards_in_a_seeded_order(open_cache):
    cache = open_cache()
    fill(cache, Counting(), 20)
    twice = rows_of(CachedSource(cache, passes=3, seed=1))
    assert twice[:20] == WHOLE
    assert sorted(twice[20:40]) == sorted(twice[40:]) == WHOLE
    assert twice[20:40] != twice[40:]
    assert twice == rows_of(CachedSource(cache, passes=3, seed=1))
    assert twice != rows_of(CachedSource(cache, passes=3, seed=2))


def test_only_as_much_as_asked_for_is_written(open_cache):
    cache, inner = open_cache(), Counting()
    assert list(cache.fill(inner, 7)) == [(6, 7), (7, 7)]
    assert cache.n_rows == 12
    assert inner.place == 6
    seen = list(open_cache().fill(Counting(), 20))
    assert rows_of(CachedSource(open_cache())) == WHOLE
    assert seen[-1] == (20, 20)


def test_a_full_cache_reads_nothing(open_cache):
    fill(open_cache(), Counting(), 20)
    inner = Counting(bad=10)
    fill(open_cache(), inner, 20)
    fill(open_cache(), inner, 1000)
    assert open_cache().manifest["ended"], "the text had ended, and the cache knows"


def test_writing_may_stop_after_any_shard(open_cache):
    inner = Counting()
    assert next(open_cache().fill(inner, 20)) == (6, 20)
    assert inner.place == 3
    assert open_cache().n_rows == 6
    fill(open_cache(), Counting(), 20)
    assert rows_of(CachedSource(open_cache())) == WHOLE


def test_writing_goes_on_after_a_crash(open_cache):
    with pytest.raises(ValueError, match="chunk 7 is bad"):
        fill(open_cache(), Counting(bad=7), 20)
    assert open_cache().n_rows == 12
    fill(open_cache(), Counting(), 20)
    assert rows_of(CachedSource(open_cache())) == WHOLE


def test_the_place_is_kept(open_cache):
    cache = open_cache()
    fill(cache, Counting(), 20)
    source, again = CachedSource(cache, passes=2), CachedSource(cache, passes=2)
    for _ in range(5):
        source.next_chunk()
    again.restore(json.loads(json.dumps(source.state())))
    assert rows_of(again) == rows_of(source)


@pytest.mark.parametrize("taken", [0, 1, 3, 5])
def test_a_cache_that_grew_is_read_as_it_was(open_cache, taken):
    """Passes, and the order of the later ones, are over the shards of then; new ones come last."""
    fill(open_cache(), Counting(), 16)
    source = CachedSource(open_cache(), passes=3)
    for _ in range(taken):
        source.next_chunk()
    state = json.loads(json.dumps(source.state()))
    fill(open_cache(), Counting(), 20)
    again = CachedSource(open_cache(), passes=3)
    again.restore(state)
    assert again.state() == state
    assert rows_of(again) == [*rows_of(source), *WHOLE[18:]]
    assert not again.skip()
    assert len(rows_of(CachedSource(open_cache(), passes=3))) == 60


def test_a_cache_that_grows_beside_a_reader_gives_no_more(open_cache):
    fill(open_cache(), Counting(), 16)
    source = CachedSource(open_cache(), passes=2)
    fill(open_cache(), Counting(), 20)
    assert len(rows_of(source)) == 36


def test_a_cache_that_lost_shards_is_refused(open_cache, tmp_path):
    fill(open_cache(), Counting(), 20)
    state = CachedSource(open_cache()).state()
    shutil.rmtree(tmp_path / "cache")
    fill(open_cache(), Counting(), 12)
    with pytest.raises(DataError, match=r"cache holds 2 shards of the 4 that this run reads; fill"):
        CachedSource(open_cache()).restore(state)


def test_a_cache_is_filled_by_one_process_at_a_time(open_cache):
    filling = open_cache().fill(Counting(), 20)
    next(filling)
    with pytest.raises(OutputError, match=r"another process is at work in .*cache; start again"):
        fill(open_cache(), Counting(), 20)
    fill(open_cache(), Counting(bad=3), 6)
    assert list(filling)[-1] == (20, 20)
    assert rows_of(CachedSource(open_cache())) == WHOLE


def test_a_filling_that_is_left_lets_others_go_on(open_cache):
    filling = open_cache().fill(Counting(), 20)
    next(filling)
    filling.close()
    fill(open_cache(), Counting(), 20)
    assert rows_of(CachedSource(open_cache())) == WHOLE


def test_a_full_cache_is_not_held(open_cache):
    fill(open_cache(), Counting(), 20)
    with locked(open_cache().folder):
        fill(open_cache(), Counting(), 20)


@pytest.mark.parametrize("n_before", [6, 20])
def test_what_another_process_has_written_meanwhile_is_not_written_again(open_cache, n_before):
    late = open_cache()
    fill(open_cache(), Counting(), n_before)
    times = [open_cache().path_of(index).stat().st_mtime_ns for index in range(n_before // 5)]
    fill(late, Counting(), 20)
    again = [open_cache().path_of(index).stat().st_mtime_ns for index in range(n_before // 5)]
    assert again == times
    assert rows_of(CachedSource(open_cache())) == WHOLE


def test_a_cache_that_was_made_of_something_else_meanwhile_is_refused(open_cache):
    late = open_cache(model="other")
    fill(open_cache(), Counting(), 6)
    with pytest.raises(DataError, match="holds activations of something else"):
        fill(late, Counting(), 6)


def test_the_sizes_are_those_of_the_chunks(open_cache):
    fill(open_cache(), Counting(), 20)
    source = CachedSource(open_cache(), passes=3, seed=2)
    sizes = source.sizes()
    chunks = iter(source.next_chunk, None)
    assert [len(chunk.rows) for chunk in chunks] == sizes
    assert sorted(sizes[:4]) == [2, 6, 6, 6]


@pytest.mark.parametrize("gone", [(0,), (1,), (0, 1)], ids=str)
def test_shards_that_are_gone_are_made_again_and_writing_goes_on_behind_them(open_cache, gone):
    fill(open_cache(), Counting(), 12)
    for index in gone:
        open_cache().path_of(index).unlink()
    fill(open_cache(), Counting(), 20)
    assert rows_of(CachedSource(open_cache())) == WHOLE


def test_a_last_shard_that_is_short_is_made_again(open_cache):
    cache = open_cache()
    fill(cache, Counting(), 20)
    cache.path_of(3).unlink()
    fill(open_cache(), Counting(), 20)
    assert rows_of(CachedSource(open_cache())) == WHOLE


def test_what_was_read_and_left_out_is_counted_as_at_the_source(open_cache):
    class Counted(Counting):
        def next_chunk(self):
            chunk = super().next_chunk()
            return chunk and Chunk(chunk.rows, 7, 5)

    cache = open_cache()
    fill(cache, Counted(), 20)
    assert CachedSource(open_cache()).next_chunk()[1:] == (21, 15)


def test_rows_are_kept_in_the_caches_dtype(open_cache):
    cache = open_cache(dtype=torch.bfloat16)
    fill(cache, Counting(), 5)
    assert cache.read(0, verify=True).dtype == torch.bfloat16


def test_a_shard_that_is_first_read_in_a_later_pass_is_verified(open_cache):
    cache = open_cache()
    fill(cache, Counting(), 20)
    for index in range(4):
        path = cache.path_of(index)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    source = CachedSource(open_cache(), passes=2)
    source.restore({"shards_read": 4})
    with pytest.raises(DataError, match="is damaged"):
        source.next_chunk()


def test_a_damaged_shard_is_named_and_made_again(open_cache):
    cache = open_cache()
    fill(cache, Counting(), 20)
    path = cache.path_of(1)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    source = CachedSource(open_cache())
    source.next_chunk()
    with pytest.raises(DataError, match=r"shard-00001.safetensors is damaged .*delete that file"):
        source.next_chunk()
    path.unlink()
    with pytest.raises(DataError, match=r"shard-00001.safetensors can't be read"):
        source.next_chunk()
    fill(open_cache(), Counting(), 20)
    assert rows_of(CachedSource(open_cache())) == WHOLE


def test_a_cache_of_something_else_is_refused(open_cache):
    fill(open_cache(), Counting(), 20)
    with pytest.raises(
        DataError, match=r"something else .identity: model 'tiny' there, 'big' here"
    ):
        open_cache(model="big")
    with pytest.raises(DataError, match=r"something else .rows_per_shard: 5 there, 6 here"):
        open_cache(rows_per_shard=6)


class Changed(Counting):
    def restore(self, state):
        raise DataError("the text has changed.")


@pytest.mark.parametrize("gone", [None, 0, 2])
def test_a_cache_of_a_text_that_has_changed_is_refused(open_cache, gone):
    fill(open_cache(), Counting(), 20)
    if gone is not None:
        open_cache().path_of(gone).unlink()
    with pytest.raises(DataError, match=r"cache holds activations of another text: the text has"):
        fill(open_cache(), Changed(), 20)


def test_a_text_that_was_empty_may_be_filled(open_cache):
    fill(open_cache(), Counting(end=0), 20)
    fill(open_cache(), Counting(), 20)
    assert rows_of(CachedSource(open_cache())) == WHOLE


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "5",
        '{"shards": 3}',
        '{"shards": []}',
        '{"format": 1, "name": "calm", "edits": []}',
        '{"identity": {}, "rows_per_shard": 5, "shards": [5], "ended": false}',
    ],
)
def test_what_is_no_cache_is_refused_and_not_to_be_deleted(open_cache, content):
    cache = open_cache()
    fill(cache, Counting(), 20)
    (cache.folder / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"is not an activation cache.*cache\.path\.$") as caught:
        open_cache()
    assert "delete" not in str(caught.value)


def test_a_file_is_no_cache(open_cache, tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(DataError, match=r"is not an activation cache, .*Not a directory.*another"):
        open_cache()


def test_a_place_in_the_text_that_makes_no_sense_is_refused(open_cache):
    cache = open_cache()
    fill(cache, Counting(), 20)
    cache.manifest["shards"][-1]["state"] = {}
    with pytest.raises(DataError, match=r"is not an activation cache, or a damaged one .'place'"):
        fill(cache, Counting(), 20)


def test_a_disk_too_small_is_said_before_anything_is_written(open_cache, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        OutputError,
        match=r"the cache needs 244 bytes more in .* 100 bytes are free; lower n_tokens",
    ):
        fill(open_cache(), Counting(), 20)
    assert list(tmp_path.iterdir()) == []


def test_disk_is_asked_for_what_is_still_missing(open_cache, monkeypatch, tmp_path):
    fill(open_cache(), Counting(), 12)
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    fill(open_cache(), Counting(), 20)
    fill(open_cache(), Counting(), 1000)
    assert rows_of(CachedSource(open_cache())) == WHOLE


def test_a_disk_that_fills_up_leaves_whole_shards(open_cache, monkeypatch):
    from saesteer.data import cache as module

    real, calls = module.save_tensors, []

    def full(tensors, path):
        calls.append(path)
        if len(calls) == 3:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(module, "save_tensors", full)
    with pytest.raises(OutputError, match="can't be written: .*No space left"):
        fill(open_cache(), Counting(), 20)
    assert not list(open_cache().folder.glob("*.writing"))
    fill(open_cache(), Counting(), 20)
    assert rows_of(CachedSource(open_cache())) == WHOLE
