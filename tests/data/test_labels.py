"""Labels stay with their tokens, through packing, the ring, the cache and a resumed stream."""

from __future__ import annotations

import json
import math

import pytest
import torch

from saesteer.data.activations import ActivationStream
from saesteer.data.cache import ActivationCache, CachedSource
from saesteer.data.labels import check_labels, read_labelled
from saesteer.data.ring import ShuffleRing
from saesteer.data.sources import Columns, ModelSource
from saesteer.data.tokens import TokenStream
from saesteer.errors import DataError
from saesteer.models import Site

SITE = Site(0, "resid_pre")
WORDS = {1: "rain town sea", 0: "quick brown fox", None: "lazy dog sun"}


def write(path, records) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Unlabelled text, and labelled text with words of its own for each label."""
    plain = [{"text": WORDS[None] * (1 + i % 4)} for i in range(60)]
    told = [{"text": WORDS[i % 2] * (1 + i % 5), "label": i % 2} for i in range(80)]
    return write(tmp_path / "plain.jsonl", plain), write(tmp_path / "told.jsonl", told)


@pytest.fixture
def model(tiny_model):
    return tiny_model("llama")


def token_stream(files, model):
    return TokenStream([files[0]], model.tokenizer, context=12, labelled=[files[1]])


def same(left, right):
    return torch.equal(left.nan_to_num(nan=-1), right.nan_to_num(nan=-1))


def test_every_token_carries_its_documents_label(files, model):
    rows = token_stream(files, model).next_rows(10_000)
    letters = {label: {*words.replace(" ", "")} for label, words in WORDS.items()}
    seen = set()
    ids, labels = (column.flatten().tolist() for column in (rows.input_ids, rows.labels))
    for token, label in zip(ids, labels, strict=True):
        label = None if math.isnan(label) else int(label)
        text = model.tokenizer.decode([token]).replace(" ", "")
        assert {*text} <= letters[label], (text, label)
        seen.add(label)
    assert seen == {0, 1, None}


def test_text_without_labelled_sources_has_no_labels(files, model):
    stream = TokenStream([files[0]], model.tokenizer, context=12)
    assert stream.next_rows(3).labels is None
    assert stream.next_rows(10_000).labels is None
    ((ids, _, labels),) = stream.state()["begun"]
    assert ids
    assert labels == [], "NaN is no JSON"


def test_a_long_document_is_labelled_to_its_end(model, tmp_path):
    records = [{"text": "sea " * 8000, "label": 1}, {"text": "fox", "label": 0}]
    path = write(tmp_path / "long.jsonl", records)
    other = write(tmp_path / "other.jsonl", [{"text": "dog " * 9000}])
    stream = TokenStream([other], model.tokenizer, context=64, labelled=[path])
    labels = stream.next_rows(10_000).labels
    known = labels[~labels.isnan()]
    assert known[:8000].all(), "it is cut into pieces of 20,000 characters"
    assert not known[8000:8010].all()


def test_labelled_text_is_read_again_until_the_other_ends(model, tmp_path):
    told = [{"text": "sea fox", "label": 1}, {"text": "fox sea", "label": 0}]
    path = write(tmp_path / "told.jsonl", told)
    other = write(tmp_path / "other.jsonl", [{"text": "dog " * 200}])
    stream = TokenStream([other], model.tokenizer, context=8, weights=[3], labelled=[path])
    labels = stream.next_rows(10_000).labels
    known = ~labels.isnan().any(-1)
    assert stream.next_rows(1) is None
    again = TokenStream([other], model.tokenizer, context=8, weights=[3], labelled=[path])
    again.restore(stream.state())
    assert again.next_rows(1) is None
    n_alone = len(TokenStream([other], model.tokenizer, context=8).next_rows(10_000).input_ids)
    assert (~known).sum() == n_alone
    assert known.sum() >= n_alone // 3 > 10
    assert known[2::4][: n_alone // 3].all(), "one row among three of the other"


def test_only_the_training_split_is_read(tmp_path):
    splits = ["train", "validation", "test", None]
    records = [{"text": f"rain {s}", "label": 1, "split": s} for s in splits if s]
    path = write(tmp_path / "a.jsonl", [*records, {"text": "sea", "label": 0}])
    assert [*read_labelled(tmp_path / "a.jsonl")] == [("rain train", 1), ("sea", 0)]
    check_labels(path)


@pytest.mark.parametrize("n_first", [1, 7])
def test_a_restored_stream_goes_on_with_the_same_labels(files, model, n_first):
    whole, stopped, resumed = (token_stream(files, model) for _ in range(3))
    stopped.next_rows(n_first)
    whole.next_rows(n_first)
    resumed.restore(json.loads(json.dumps(stopped.state())))
    rest, again = whole.next_rows(10_000), resumed.next_rows(10_000)
    assert torch.equal(rest.input_ids, again.input_ids)
    assert same(rest.labels, again.labels)


def source_of(files, model):
    columns = Columns.of(model, [SITE], told=True)
    return columns, ModelSource(model, columns, token_stream(files, model), 4)


def test_labels_are_the_last_column_and_stay_with_their_rows(files, model):
    """`resid_pre.0` is the token's embedding, so a row tells which word it came from."""
    columns, source = source_of(files, model)
    assert columns.width == 33
    ring = ShuffleRing(columns.width, 32, 2, seed=0, dtype=torch.bfloat16)
    stream = ActivationStream(source, ring)
    embeddings = model.hf.get_input_embeddings().weight.detach().bfloat16()
    letters = {label: {*words.replace(" ", "")} for label, words in WORDS.items()}
    labels = []
    for _ in range(4):
        batch = columns.pick(stream.next_batch(), [SITE])
        assert batch.shape == (32, 33)
        tokens = torch.cdist(batch[:, :-1].float(), embeddings.float()).argmin(-1)
        for token, label in zip(tokens.tolist(), batch[:, -1].tolist(), strict=True):
            labels.append(None if math.isnan(label) else int(label))
            text = model.tokenizer.decode([token]).replace(" ", "")
            assert {*text} <= letters[labels[-1]]
    assert set(labels) == {0, 1, None}


def test_the_cache_keeps_labels(files, model, tmp_path):
    columns, source = source_of(files, model)
    cache = ActivationCache(
        tmp_path / "cache", {}, width=columns.width, dtype=torch.float32, rows_per_shard=100
    )
    list(cache.fill(source, 300))
    cached, direct = CachedSource(cache), source_of(files, model)[1]
    from_disk = torch.cat([cached.next_chunk().rows for _ in range(2)])
    from_model = torch.cat([direct.next_chunk().rows for _ in range(6)])
    assert same(from_disk[:200], from_model[:200])
    assert {*from_disk[:, -1].nan_to_num(nan=-1).tolist()} == {-1, 0, 1}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "sea"}, r"line 2: no label; expected 0 or 1 under 'label'"),
        ({"text": "sea", "label": 2}, r"line 2: label 2; expected 0 or 1"),
        ({"text": "sea", "label": 0.5}, r"line 2: label 0\.5; expected 0 or 1"),
        ({"text": "sea", "label": "1"}, r"line 2: label '1'; expected 0 or 1"),
        ("sea", r"line 2: no label"),
        ({"label": 1}, r"line 2: no text under 'text'"),
    ],
)
def test_a_bad_label_is_named_with_its_line(tmp_path, record, message):
    path = write(tmp_path / "a.jsonl", [{"text": "rain", "label": 1}, record])
    with pytest.raises(DataError, match=message):
        check_labels(path)


def test_numbers_and_truth_values_are_labels(tmp_path):
    values = [1, 0, True, False, 1.0]
    path = tmp_path / "a.jsonl"
    write(path, [{"text": "rain", "label": value} for value in values])
    assert [label for _, label in read_labelled(path)] == [1, 0, 1, 0, 1]
    check_labels(str(path))


def test_labels_that_are_all_the_same_teach_nothing(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "rain", "label": 1}] * 3)
    with pytest.raises(DataError, match=r"labels are all 1; both 0 and 1 are needed"):
        check_labels(path)
    with pytest.raises(DataError, match=r"labels are missing"):
        check_labels(write(tmp_path / "b.jsonl", [{"text": " ", "label": n} for n in (0, 1)]))
    with pytest.raises(DataError, match="no such file or folder"):
        check_labels(str(tmp_path / "c.jsonl"))
    (tmp_path / "d.txt").write_text("rain")
    with pytest.raises(DataError, match=r"d\.txt, line 1: not valid JSON"):
        check_labels(str(tmp_path / "d.txt"))


def test_rows_can_be_numbered_by_their_source(model, tmp_path):
    """A row of the second source says 1, also when the first has ended."""
    few = write(tmp_path / "few.jsonl", [{"text": WORDS[0] * 9}])
    many = write(tmp_path / "many.jsonl", [{"text": WORDS[1] * 60}])
    stream = TokenStream([few, many], model.tokenizer, context=8, weights=[2, 1], numbered=True)
    rows = stream.next_rows(10_000)
    letters = {number: {*WORDS[number].replace(" ", "")} for number in (0, 1)}
    for ids, labels in zip(rows.input_ids, rows.labels.tolist(), strict=True):
        assert labels == labels[:1] * 8
        assert {*model.tokenizer.decode(ids).replace(" ", "")} <= letters[labels[0]]
    assert rows.labels[:4, 0].tolist() == [0, 1, 0, 0]
    assert rows.labels[-4:, 0].tolist() == [1, 1, 1, 1]
