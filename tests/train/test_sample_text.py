"""Text sampled from a model: whole parts, resumed by what is there, drawn from what it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import sample_text
import torch
from decoding import Decoder, Start

HEATS = sample_text.TEMPERATURES


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("llama")


def sample(model, openings, length, seed, heats=HEATS):
    decoder = Decoder(model, len(openings), length, heats)
    return decoder.sample(Start.of(openings, length, seed))


def parts_in(folder, seeds):
    return {seed: folder / f"part-{seed:03d}.jsonl" for seed in seeds}


def test_openings_are_kept_and_the_seed_decides(model):
    openings = [[5, 6, 7], [8], [9, 10]]
    ids = sample(model, openings, 12, seed=0)
    assert ids.shape == (3, 12)
    assert all(ids[i, : len(o)].tolist() == o for i, o in enumerate(openings))
    assert torch.equal(ids, sample(model, openings, 12, seed=0))
    assert not torch.equal(ids, sample(model, openings, 12, seed=1))


def test_an_opening_longer_than_the_rows_is_cut(model):
    assert sample(model, [list(range(3, 20))], 6, seed=0).tolist() == [[3, 4, 5, 6, 7, 8]]


def test_tokens_are_drawn_from_the_models_own_chances(model):
    """At a temperature near zero every token is the likeliest one of the plain model."""
    ids = sample(model, [[5, 6, 7], [8, 9, 10]], 10, seed=0, heats=(1e-4,))
    with torch.no_grad():
        likeliest = model.hf(input_ids=ids).logits.argmax(-1)
    assert torch.equal(ids[:, 3:], likeliest[:, 2:-1])


def test_a_part_does_not_depend_on_what_was_drawn_before(model):
    decoder, start = Decoder(model, 2, 10, HEATS), Start.of([[5], [6, 7]], 10, 3)
    first = decoder.sample(start)
    decoder.sample(Start.of([[9, 9, 9], [8]], 10, 4))
    assert torch.equal(decoder.sample(start), first)


def test_a_part_is_json_lines_and_leaves_nothing_beside_it(model, tmp_path):
    path = tmp_path / "part-000.jsonl"
    ids = sample(model, [[5]] * 6, 20, seed=0)
    sample_text.write_part(model, path, ids)
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    assert texts == model.tokenizer.batch_decode(ids)
    assert [p.name for p in tmp_path.iterdir()] == ["part-000.jsonl"]


def test_a_part_is_the_same_whichever_parts_are_made_with_it(model, tmp_path):
    (tmp_path / "alone").mkdir()
    assert sample_text.write_parts(model, parts_in(tmp_path, range(3)), 4, 16) == 3 * 4 * 16
    assert sample_text.write_parts(model, parts_in(tmp_path / "alone", [2]), 4, 16) == 4 * 16
    texts = [path.read_text() for path in parts_in(tmp_path, range(3)).values()]
    assert len(set(texts)) == 3
    assert (tmp_path / "alone" / "part-002.jsonl").read_text() == texts[2]


def test_a_part_that_cannot_be_written_is_an_error(model, tmp_path):
    with pytest.raises(FileNotFoundError):
        sample_text.write_parts(model, parts_in(tmp_path / "missing", range(3)), 4, 16)


def test_no_part_begins_once_the_time_is_over(model, tmp_path):
    sample_text.write_parts(model, parts_in(tmp_path, range(3)), 4, 16, until=0.0)
    assert [p.name for p in tmp_path.iterdir()] == ["part-000.jsonl"]


def test_the_command_makes_the_parts_that_are_missing(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sample_text, "load_model", lambda *_, **__: model)
    kept = tmp_path / "part-005.jsonl"
    kept.write_text("kept")
    numbers = ["--parts", "3", "--first", "4", "--rows", "2", "--length", "16"]
    monkeypatch.setattr(sys, "argv", ["sample_text.py", "--out", str(tmp_path), *numbers])
    sample_text.main()
    assert "64 tokens in " in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"part-{i:03d}.jsonl" for i in (4, 5, 6)]
    assert kept.read_text() == "kept"
    sample_text.main()
    assert "0 tokens in " in capsys.readouterr().out


def test_openings_are_all_different():
    openings = json.loads(Path(sample_text.OPENINGS).read_text())["openings"]
    assert len(set(openings)) == len(openings) >= 700
    assert all(opening.strip() for opening in openings)


def test_slots_of_openings_are_filled():
    texts = sample_text.drawn_openings(20000, seed=0)
    assert texts == sample_text.drawn_openings(20000, seed=0)
    assert len(set(texts)) > 10000
    slots = json.loads(Path(sample_text.OPENINGS).read_text())["slots"]
    assert all(len(set(choices)) == len(choices) for choices in slots.values())
    assert not any(f"{{{slot}}}" in text for text in texts for slot in slots)


def test_every_slot_of_an_opening_exists_and_every_slot_is_used():
    import re

    given = json.loads(Path(sample_text.OPENINGS).read_text())
    named = {name for text in given["openings"] for name in re.findall(r"\{([a-z_]+)\}", text)}
    assert named == set(given["slots"])
