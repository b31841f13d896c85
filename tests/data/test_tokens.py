"""Packed rows hold every token once, in order, keep documents apart, and resume exactly."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saesteer.data import reader
from saesteer.data.tokens import TokenStream
from saesteer.errors import DataError

WORDS = ["the", "rain", "in", "town", "and", "sea", "sun", "a", "b"]
DOCUMENT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=30).map(" ".join)
DOCUMENTS = st.lists(DOCUMENT, min_size=1, max_size=12)
NAMES = ("rain", "sea", "sun", "town", "b")
SHORT_FILES = st.lists(st.lists(st.integers(1, 9), max_size=3), min_size=1, max_size=8)
"""How many words each document of each file has."""
FEW = settings(max_examples=40, deadline=None)


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return tiny_model("llama").tokenizer


def write(folder: Path, name: str, documents) -> str:
    path = folder / name
    path.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents))
    return str(path)


def rows_of(stream: TokenStream, n_rows: int = 3):
    """All rows as lists of (token, position)."""
    rows = []
    while (got := stream.next_rows(n_rows)) is not None:
        assert got.input_ids.shape == got.position_ids.shape
        rows += [
            list(zip(i, p, strict=True))
            for i, p in zip(got.input_ids.tolist(), got.position_ids.tolist(), strict=True)
        ]
    return rows


def folder_of(folder: str, files) -> str:
    """Short files of one word each, neighbours of another."""
    for index, (word, lengths) in enumerate(zip(itertools.cycle(NAMES), files, strict=False)):
        write(Path(folder), f"{index}.jsonl", [" ".join([word] * n) for n in lengths])
    return folder


def tokens_of(files, tokenizer):
    """The tokens of the documents of such a folder, file by file."""
    return [
        [
            tokenizer(" ".join([word] * n), add_special_tokens=False)["input_ids"]
            for n, _ in itertools.groupby(lengths)
        ]
        for word, lengths in zip(itertools.cycle(NAMES), files, strict=False)
    ]


def packed(documents, tokenizer, context):
    """What rows should hold, the plain way: (token, whether it starts a document)."""
    flat = []
    for document in documents:
        ids = tokenizer(document, add_special_tokens=False)["input_ids"]
        flat += [(token, index == 0) for index, token in enumerate(ids)]
    n_rows = len(flat) // context
    return [flat[i * context : (i + 1) * context] for i in range(n_rows)]


def distinct(documents):
    """No two neighbours alike: a repeated passage is read once."""
    return [d for i, d in enumerate(documents) if i == 0 or d != documents[i - 1]]


@given(DOCUMENTS, st.integers(2, 16))
@FEW
def test_rows_are_the_tokenizers_output_with_positions_restarting(tokenizer, documents, context):
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), "a.jsonl", documents)
        rows = rows_of(TokenStream([path], tokenizer, context=context))
    expected = packed(distinct(documents), tokenizer, context)
    assert [[token for token, _ in row] for row in rows] == [
        [token for token, _ in row] for row in expected
    ]
    for row, starts in zip(rows, expected, strict=True):
        position = 0
        for (_, got), (_, starts_document) in zip(row, starts, strict=True):
            position = 0 if starts_document else position
            assert got == position
            position += 1


def test_a_long_document_goes_on_over_its_pieces(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "split_pieces", lambda text: [text[:20], text[20:]])
    text = "the rain in the town and the sea in the sun"
    path = write(tmp_path, "a.jsonl", [text])
    rows = rows_of(TokenStream([path], tokenizer, context=8))
    pieces = [text[:20], text[20:]]
    ids = [i for p in pieces for i in tokenizer(p, add_special_tokens=False)["input_ids"]]
    assert [token for row in rows for token, _ in row] == ids[: 8 * len(rows)]
    assert all([position for _, position in row] == list(range(8)) for row in rows)


def test_a_piece_without_tokens_does_not_join_two_documents(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(
        reader, "split_pieces", lambda text: ["", text] if text == "sea" else [text]
    )
    path = write(tmp_path, "a.jsonl", ["the rain", "sea", "the sun in the rain"])
    ((*_,),) = (rows := rows_of(TokenStream([path], tokenizer, context=6)))[:1]
    sea = len(tokenizer("the rain", add_special_tokens=False)["input_ids"])
    assert [position for _, position in rows[0]][sea] == 0


@given(DOCUMENTS, DOCUMENTS, st.integers(2, 8), st.integers(0, 25), st.integers(1, 2))
@FEW
def test_a_restored_stream_gives_the_same_rows(tokenizer, first, second, context, n_before, passes):
    with tempfile.TemporaryDirectory() as folder:
        paths = [write(Path(folder), n, d) for n, d in (("a.jsonl", first), ("b.jsonl", second))]

        def stream():
            return TokenStream(paths, tokenizer, context=context, weights=[2, 1], passes=passes)

        whole = stream()
        if n_before:
            whole.next_rows(n_before)
        state = json.loads(json.dumps(whole.state()))
        rest = rows_of(whole)
        again = stream()
        again.next_rows(5)
        again.restore(state)
        assert rows_of(again) == rest


@given(SHORT_FILES, st.integers(2, 40), st.integers(0, 12), st.integers(1, 2))
@FEW
def test_a_restored_stream_of_short_files_gives_the_same_rows(
    tokenizer, files, context, n_before, passes
):
    with tempfile.TemporaryDirectory() as folder:
        folder_of(folder, files)
        whole, again = (
            TokenStream([folder], tokenizer, context=context, passes=passes) for _ in range(2)
        )
        for _ in range(n_before):
            whole.next_rows(1)
        again.next_rows(3)
        again.restore(json.loads(json.dumps(whole.state())))
        assert again.state() == whole.state()
        assert rows_of(again) == rows_of(whole)


def test_a_state_is_a_few_numbers_a_file(tokenizer, tmp_path):
    """Nothing of the piece in hand, of which a copy would be made for every chunk."""
    for word in NAMES:
        (tmp_path / f"{word}.txt").write_text(f"{word} " * 9000)
    stream = TokenStream([str(tmp_path)], tokenizer, context=16)
    stream.next_rows(7)
    assert len(json.dumps(stream.state()["files"])) < 20 * len(NAMES)


def test_the_state_of_an_older_checkpoint_is_read(tokenizer, tmp_path):
    """It held the tokens in hand themselves."""
    documents = ["the rain in the town", "the sea and the sun in"]
    paths = [write(tmp_path, f"{name}.jsonl", documents) for name in "ab"]
    whole, again = (TokenStream(paths, tokenizer, context=4, passes=2) for _ in range(2))
    whole.next_rows(1)
    ids = tokenizer(documents[0], add_special_tokens=False)["input_ids"][4:]
    hand = {"tokens": ids, "positions": list(range(4, 4 + len(ids))), "labels": []}
    empty = {"tokens": [], "positions": [], "labels": []}
    old = {
        "turn": 1,
        "next_file": [0, 0],
        "ended": [],
        "files": [
            [{"passes": 0, "pieces": 1, "fresh": False, **hand}],
            [{"passes": 0, "pieces": 0, "fresh": False, **empty}],
        ],
    }
    again.restore(old)
    assert rows_of(again) == rows_of(whole)


def test_an_older_checkpoint_at_the_end_of_its_text_goes_on_with_more_passes(tokenizer, tmp_path):
    path = write(tmp_path, "a.jsonl", ["the rain in", "the"])
    stream = TokenStream([path], tokenizer, context=4, passes=2)
    cursor = {"passes": 1, "pieces": 0, "fresh": False, "tokens": [5], "positions": [0]}
    old = {"turn": 0, "next_file": [0], "ended": ["0.0"], "files": [[{**cursor, "labels": []}]]}
    stream.restore(old)
    assert rows_of(stream) == rows_of(TokenStream([path], tokenizer, context=4))


@pytest.fixture
def open_now(monkeypatch):
    """How many files were open at a time."""
    counts, real = [0], reader.open_documents

    def counted(*args, **kwargs):
        counts.append(counts[-1] + 1)
        try:
            yield from real(*args, **kwargs)
        finally:
            counts.append(counts[-1] - 1)

    monkeypatch.setattr(reader, "open_documents", counted)
    monkeypatch.setattr(reader, "_PIECES_AT_ONCE", 2)
    return counts


@pytest.mark.parametrize("most", [0, 2, 99])
def test_no_more_files_are_open_than_may_be(tokenizer, tmp_path, monkeypatch, open_now, most):
    for word in NAMES:
        write(tmp_path, f"{word}.jsonl", [f"{word} {i}" for i in range(7)])
    rows = rows_of(TokenStream([str(tmp_path)], tokenizer, context=4, passes=2))
    assert max(open_now) == len(NAMES)
    del open_now[1:]
    monkeypatch.setattr(reader, "_may_be_open", lambda: most)
    assert rows_of(TokenStream([str(tmp_path)], tokenizer, context=4, passes=2)) == rows
    assert max(open_now) <= most + 1, "and the one that is being read"
    assert open_now[-1] == 0


def test_more_passes_go_on_where_fewer_ended(tokenizer, tmp_path):
    path = write(tmp_path, "a.jsonl", ["the rain in the town", "the sea and the sun in"])
    once, more, whole = (
        TokenStream([path], tokenizer, context=7, passes=passes) for passes in (1, 3, 3)
    )
    rows = rows_of(once)
    more.restore(json.loads(json.dumps(once.state())))
    assert rows + rows_of(more) == rows_of(whole)


def test_pieces_without_tokens_are_passed_once(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "split_pieces", lambda text: ["", text, ""])
    path = write(tmp_path, "a.jsonl", [f"the rain {word}" for word in WORDS])
    whole, again = (TokenStream([path], tokenizer, context=4) for _ in range(2))
    whole.next_rows(3)
    again.restore(whole.state())
    assert rows_of(again) == rows_of(whole)


def test_saving_the_state_changes_nothing(tokenizer, tmp_path):
    path = write(tmp_path, "a.jsonl", [f"the rain {w}" for w in WORDS])
    asked, left = (TokenStream([path], tokenizer, context=4) for _ in range(2))
    for _ in range(3):
        asked.next_rows(1)
        left.next_rows(1)
        asked.state()
    assert rows_of(asked) == rows_of(left)


@pytest.fixture
def three_sources(tmp_path):
    """Files of one word each, so that a row tells where it came from."""
    return [
        write(tmp_path, f"{word}.jsonl", [f"{word} {i % 3}" for i in range(60)])
        for word in ("rain", "sea", "sun")
    ]


def source_of(row, tokenizer):
    text = tokenizer.decode([token for token, _ in row])
    return next(word for word in ("rain", "sea", "sun") if word in text)


def test_weights_are_rows_per_turn_and_lie_between_each_other(three_sources, tokenizer):
    stream = TokenStream(three_sources, tokenizer, context=12, weights=[3, 2, 1])
    order = [source_of(row, tokenizer) for row in rows_of(stream)[:12]]
    assert order == ["rain", "sea", "rain", "sun", "sea", "rain"] * 2


def test_a_source_that_ends_leaves_its_turns_to_the_others(three_sources, tokenizer):
    alone = [len(rows_of(TokenStream([s], tokenizer, context=12))) for s in three_sources]
    rows = rows_of(TokenStream(three_sources, tokenizer, context=12, weights=[1, 5, 1]))
    counts = [sum(source_of(r, tokenizer) == w for r in rows) for w in ("rain", "sea", "sun")]
    assert counts == alone


def test_the_files_of_a_folder_take_turns(three_sources, tokenizer, tmp_path):
    stream = TokenStream([str(tmp_path)], tokenizer, context=12)
    order = [source_of(row, tokenizer) for row in rows_of(stream)[:6]]
    assert order == ["rain", "sea", "sun"] * 2


@given(SHORT_FILES, st.integers(2, 40), st.integers(1, 3))
@FEW
def test_what_a_file_leaves_goes_to_the_next_so_that_a_source_drops_less_than_a_row(
    tokenizer, files, context, passes
):
    with tempfile.TemporaryDirectory() as folder:
        stream = TokenStream([folder_of(folder, files)], tokenizer, context=context, passes=passes)
        rows = rows_of(stream)
    flat = [t for file in tokens_of(files, tokenizer) for ids in file for t in ids * passes]
    assert len(rows) == len(flat) // context
    left = Counter(flat)
    left.subtract(token for row in rows for token, _ in row)
    assert min(left.values(), default=0) >= 0, "no token is read twice"


def test_short_files_share_a_row_and_do_not_see_each_other(tokenizer, tmp_path):
    stream = TokenStream([folder_of(str(tmp_path), [[3], [2], [9]])], tokenizer, context=12)
    documents = [ids for file in tokens_of([[3], [2], [9]], tokenizer) for ids in file]
    expected = [(token, place) for ids in documents for place, token in enumerate(ids)]
    assert rows_of(stream)[0] == expected[:12]
    assert len(documents[0]) + len(documents[1]) < 12


def test_a_row_that_goes_on_in_the_middle_of_a_document_begins_it_anew(tokenizer, tmp_path):
    """Its beginning stands in another row, so it is a document of its own."""
    files = [[9], [1], [9]]
    (a,), (b,), (c,) = tokens_of(files, tokenizer)
    rows = rows_of(TokenStream([folder_of(str(tmp_path), files)], tokenizer, context=len(b) + 2))
    n = len(b) + 2
    mixed = next(row for row in rows if {t for t, _ in row} & {*b} and {t for t, _ in row} - {*b})
    assert [position for _, position in mixed] == [*range(len(b)), 0, 1]
    assert n < len(a) < len(c) + n


def test_passes_read_a_file_again(tokenizer, tmp_path):
    documents = ["the rain in the town", "the sea and the sun in"]
    path = write(tmp_path, "a.jsonl", documents)
    rows = rows_of(TokenStream([path], tokenizer, context=4, passes=3))
    expected = packed(documents * 3, tokenizer, 4)
    assert [[t for t, _ in row] for row in rows] == [[t for t, _ in row] for row in expected]


def test_the_last_batch_may_be_smaller(tokenizer, tmp_path):
    path = write(tmp_path, "a.jsonl", ["the rain in the town and the sea"] * 1)
    stream = TokenStream([path], tokenizer, context=2)
    n_rows = len(rows_of(TokenStream([path], tokenizer, context=2)))
    sizes = []
    while (rows := stream.next_rows(4)) is not None:
        sizes.append(len(rows.input_ids))
    assert sum(sizes) == n_rows
    assert sizes[:-1] == [4] * (len(sizes) - 1)
    assert stream.next_rows(4) is None


@pytest.mark.parametrize("documents", [[], [""], ["the"]])
def test_too_little_text_gives_no_row(tokenizer, tmp_path, documents):
    stream = TokenStream([write(tmp_path, "a.jsonl", documents)], tokenizer, context=8, passes=2)
    assert stream.next_rows(2) is None


def saved_state(paths, tokenizer):
    stream = TokenStream(paths, tokenizer, context=4)
    stream.next_rows(1)
    return json.loads(json.dumps(stream.state()))


def test_a_file_more_is_noticed(tokenizer, tmp_path):
    write(tmp_path, "a.jsonl", WORDS)
    state = saved_state([str(tmp_path)], tokenizer)
    write(tmp_path, "b.jsonl", WORDS)
    stream = TokenStream([str(tmp_path)], tokenizer, context=4)
    with pytest.raises(DataError, match=r"the text has changed .*b\.jsonl"):
        stream.restore(state)


def test_a_file_of_another_name_or_size_is_noticed(tokenizer, tmp_path):
    path = write(tmp_path, "a.jsonl", WORDS)
    state = saved_state([path], tokenizer)
    other = write(tmp_path, "b.jsonl", WORDS)
    with pytest.raises(DataError, match=r"now \['b\.jsonl.*then \['a\.jsonl"):
        TokenStream([other], tokenizer, context=4).restore(state)
    write(tmp_path, "a.jsonl", [*WORDS, "more"])
    with pytest.raises(DataError, match=r"the text has changed since it was read"):
        TokenStream([path], tokenizer, context=4).restore(state)


def test_a_file_may_move_with_its_folder(tokenizer, tmp_path):
    path = Path(write(tmp_path, "a.jsonl", WORDS))
    state = saved_state([str(path)], tokenizer)
    (tmp_path / "moved").mkdir()
    path.rename(tmp_path / "moved" / "a.jsonl")
    stream = TokenStream([str(tmp_path / "moved" / "a.jsonl")], tokenizer, context=4)
    stream.restore(state)
    assert stream.next_rows(1) is not None


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [1, 0], [1, -1]])
def test_weights_must_fit_the_paths(tokenizer, tmp_path, weights):
    paths = [write(tmp_path, f"{name}.jsonl", WORDS) for name in "ab"]
    with pytest.raises(DataError, match=r"text\.weights needs one whole number >= 1 for each of"):
        TokenStream(paths, tokenizer, context=4, weights=weights)


def test_a_source_must_exist(tokenizer, tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        TokenStream([str(tmp_path / "missing")], tokenizer, context=4)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "neox", "gemma3", "mixtral"])
def test_the_model_keeps_packed_documents_apart(tiny_model, tmp_path, arch):
    model = tiny_model(arch)
    documents = ["a quick rain", "in the brown town", "fox", "the sun in the lazy rain"]
    path = write(tmp_path, "a.jsonl", documents)
    rows = TokenStream([path], model.tokenizer, context=20).next_rows(1)
    with torch.no_grad():
        together = model.layout.base(
            input_ids=rows.input_ids, position_ids=rows.position_ids, use_cache=False
        )[0][0]
        alone = [
            model.layout.base(
                input_ids=torch.tensor([model.tokenizer(d, add_special_tokens=False)["input_ids"]])
            )[0][0]
            for d in documents
        ]
    apart = torch.cat(alone)[:20]
    assert (together - apart).abs().max() <= 1e-5 * apart.abs().max()
    with torch.no_grad():
        mixed = model.layout.base(input_ids=rows.input_ids, use_cache=False)[0][0]
    assert (mixed - apart).abs().max() > 0.01 * apart.abs().max(), "nothing could have leaked"
