"""Text sampled from a model: whole parts, resumed by what is there, drawn from what it says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import AttentionInterface

SCRIPT = Path(__file__).parents[2] / "train" / "sample_text.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("sample_text", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    AttentionInterface.register("grouped", module.grouped_attention)
    return module


@pytest.fixture
def model(tiny_model):
    model = tiny_model("llama")
    before = model.hf.config._attn_implementation
    model.hf.set_attn_implementation("grouped")
    yield model
    model.hf.set_attn_implementation(before)


def test_openings_are_kept_and_the_seed_decides(script, model):
    openings = [[5, 6, 7], [8], [9, 10]]
    ids = script.sample_rows(model, openings, 12, seed=0)
    assert ids.shape == (3, 12)
    assert all(ids[i, : len(o)].tolist() == o for i, o in enumerate(openings))
    assert torch.equal(ids, script.sample_rows(model, openings, 12, seed=0))
    assert not torch.equal(ids, script.sample_rows(model, openings, 12, seed=1))


def test_tokens_are_drawn_from_the_models_own_chances(script, model, monkeypatch):
    """At a temperature near zero every token is the likeliest one of the plain model."""
    monkeypatch.setattr(script, "TEMPERATURES", (1e-4,))
    ids = script.sample_rows(model, [[5, 6, 7], [8, 9, 10]], 10, seed=0)
    model.hf.set_attn_implementation("sdpa")
    with torch.no_grad():
        likeliest = model.hf(input_ids=ids).logits.argmax(-1)
    assert torch.equal(ids[:, 3:], likeliest[:, 2:-1])


def test_a_part_is_json_lines_and_leaves_nothing_beside_it(script, model, tmp_path):
    path = tmp_path / "part-000.jsonl"
    script.write_part(model, path, rows=6, length=20, seed=0)
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    assert len(texts) >= 6
    assert all(text.strip() for text in texts)
    assert [p.name for p in tmp_path.iterdir()] == ["part-000.jsonl"]


def test_openings_are_all_different():
    openings = json.loads(SCRIPT.with_name("openings.json").read_text())["openings"]
    assert len(set(openings)) == len(openings) > 80
    assert all(opening.strip() for opening in openings)


def test_slots_of_openings_are_filled(script):
    texts = script.drawn_openings(2000, seed=0)
    assert texts == script.drawn_openings(2000, seed=0)
    assert len(set(texts)) > 400
    assert not any("{n}" in text or "{name}" in text for text in texts)
