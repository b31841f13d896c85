"""Activations of the right tokens, mixed, with the place in the text kept exactly."""

from __future__ import annotations

import json
import random

import pytest
import torch

from saesteer.data.activations import ActivationStream
from saesteer.data.ring import ShuffleRing
from saesteer.data.sources import Columns, ModelSource
from saesteer.data.tokens import TokenStream
from saesteer.errors import DataError
from saesteer.models import HookPoint, Site, install, record

SITE = Site(1, "resid_post")
WORDS = ["the", "rain", "in", "town", "and", "sea", "sun", "a", "b"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "a.jsonl"
    lines = [" ".join(rng.choices(WORDS, k=rng.randrange(3, 40))) for _ in range(80)]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def model(tiny_model):
    return tiny_model("llama")


@pytest.fixture
def open_stream(model, text):
    def make(seed=0, path=text, reuse=1, passes=1):
        tokens = TokenStream([path], model.tokenizer, context=16, passes=passes)
        ring = ShuffleRing(32, 8, 3, seed=seed, dtype=torch.float32, reuse=reuse)
        return ActivationStream(ModelSource(model, Columns.of(model, [SITE]), tokens, 2), ring)

    return make


def batches_of(stream, limit=10_000):
    found = []
    while len(found) < limit and (batch := stream.next_batch()) is not None:
        found.append(batch.clone())
    return found


def keys(rows):
    """Rows as a multiset; rounded, since a row's company changes its last bits."""
    return sorted(tuple(round(x, 3) for x in row[:4]) for row in rows.tolist())


def test_every_activation_is_drawn_once(open_stream, text, model):
    stream = open_stream()
    drawn = keys(torch.cat(batches_of(stream)))
    rows = TokenStream([text], model.tokenizer, context=16).next_rows(10_000)
    want = keys(open_stream().source.activations(rows).rows)
    assert 0 <= len(want) - len(drawn) <= 2 * 3 * 8 + 2 * 16
    missing = list(want)
    for key in drawn:
        missing.remove(key)
    assert stream.n_tokens == len(drawn)
    assert stream.n_read >= len(want) - 2 * 16


def test_activations_are_those_of_each_document_alone(open_stream, model, tmp_path):
    path = tmp_path / "a.jsonl"
    documents = ["the quick rain", "and the fox", "a brown sun in the rain"]
    path.write_text("".join(json.dumps(d) + "\n" for d in documents))
    rows = TokenStream([str(path)], model.tokenizer, context=16).next_rows(1)
    alone = torch.cat([record(model, model.tokenize(d), [SITE])[SITE][0] for d in documents])[:16]
    got = open_stream().source.activations(rows).rows
    assert got.shape == (16, 32)
    assert (got - alone).abs().max() <= 1e-5 * alone.abs().max()


def test_blocks_above_the_site_do_not_run(open_stream, model):
    ran = []
    above = model.layout.blocks[2].register_forward_hook(lambda *_: ran.append(1))
    open_stream().next_batch()
    above.remove()
    assert ran == []


def test_outliers_and_special_tokens_are_left_out(open_stream, model, tmp_path):
    path = tmp_path / "a.jsonl"
    documents = ["the quick<eos> rain", "<bos>and the brown fox in the sun and the rain"]
    path.write_text("".join(json.dumps(d) + "\n" for d in documents))
    rows = TokenStream([str(path)], model.tokenizer, context=24).next_rows(1)
    special = int(torch.isin(rows.input_ids, model.special_ids).sum())
    assert special == 2
    stream = open_stream()
    plain, n_read, n_outliers = stream.source.activations(rows)
    assert len(plain) == 24 - special
    assert (n_outliers, n_read) == (0, 24)

    def blow_up(resid):
        resid = resid.clone()
        resid[0, -3:-1] *= 100
        return resid

    point = HookPoint(model.layout.blocks[1], "out")
    handle = install(point, blow_up, prepend=True)
    kept, _, n_outliers = stream.source.activations(rows)
    handle.remove()
    assert len(kept) == 24 - special - 2
    assert n_outliers == 2
    assert torch.equal(kept[:-1], plain[:-3])
    assert torch.equal(kept[-1], plain[-1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(open_stream, model, bad):
    def spoil(resid):
        resid = resid.clone()
        resid[0, 0, 0] = bad
        return resid

    handle = install(HookPoint(model.layout.blocks[1], "out"), spoil, prepend=True)
    with pytest.raises(DataError, match=r"tiny-llama gives NaN or infinity at resid_post\.1"):
        open_stream().next_batch()
    handle.remove()
    assert open_stream().next_batch() is not None


@pytest.mark.parametrize("n_before", [0, 3, 11])
@pytest.mark.parametrize("reuse", [1, 2])
def test_a_restored_stream_gives_the_same_batches(open_stream, n_before, reuse):
    whole = open_stream(reuse=reuse)
    batches_of(whole, n_before)
    place, tensors = whole.state()
    place = json.loads(json.dumps(place))
    tensors = {name: value.clone() for name, value in tensors.items()}
    rest = batches_of(whole)
    again = open_stream(seed=9, reuse=reuse)
    batches_of(again, 2)
    again.restore(place, tensors)
    resumed = batches_of(again)
    assert len(rest) > 5
    assert len(resumed) == len(rest)
    assert all(torch.equal(a, b) for a, b in zip(resumed, rest, strict=True))
    assert (again.n_tokens, again.n_read, again.n_outliers) == (
        *(whole.n_tokens, whole.n_read, whole.n_outliers),
    )


def test_the_end_of_the_text_is_none_and_stays_none(open_stream):
    stream = open_stream()
    batches_of(stream)
    assert stream.next_batch() is None
    assert stream.next_batch() is None


def test_hooks_are_gone_after_a_pass(open_stream, model):
    before = sum(len(m._forward_hooks) for m in model.hf.modules())
    open_stream().next_batch()
    assert sum(len(m._forward_hooks) for m in model.hf.modules()) == before


def test_head_sites_are_streamed_too(model, text):
    site = Site(1, "head_out", 2)
    tokens = TokenStream([text], model.tokenizer, context=16)
    ring = ShuffleRing(8, 8, 3, seed=0, dtype=torch.float32)
    source = ModelSource(model, Columns.of(model, [site]), tokens)
    assert ActivationStream(source, ring).next_batch().shape == (8, 8)


def test_sites_lie_side_by_side_on_the_same_tokens(model, text):
    sites = [Site(2, "resid_post"), Site(0, "resid_post"), Site(1, "head_out", 2), SITE]
    columns = Columns.of(model, [*sites, SITE])
    assert columns.sites == (sites[1], sites[2], SITE, sites[0])
    assert columns.width == 32 + 8 + 32 + 32

    def rows_of(columns):
        tokens = TokenStream([text], model.tokenizer, context=16)
        return ModelSource(model, columns, tokens, 2).next_chunk().rows

    together = rows_of(columns)
    for site in columns.sites:
        assert torch.equal(columns.pick(together, [site]), rows_of(Columns.of(model, [site])))


def test_an_outlier_at_one_site_is_left_out_of_all(model, text):
    columns = Columns.of(model, [SITE, Site(2, "attn_out")])
    source = ModelSource(model, columns, TokenStream([text], model.tokenizer, context=16), 1)
    state = source.state()
    plain = source.next_chunk()

    def blow_up(resid):
        resid = resid.clone()
        resid[0, 3] *= 1000
        return resid

    point = HookPoint(model.layout.blocks[1], "out")  # what is above reads it normalised
    handle = install(point, blow_up, prepend=True)
    source.restore(state)
    kept = source.next_chunk()
    handle.remove()
    assert (plain.n_outliers, kept.n_outliers) == (0, 1)
    rest = torch.cat([plain.rows[:3], plain.rows[4:]])
    assert torch.equal(columns.pick(kept.rows, [SITE]), columns.pick(rest, [SITE]))
