"""Files that parse in part, and texts that can't be written down: refused, nothing made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import Error, Place, refused
from safetensors.torch import load_file, save_file

from saesteer.config import CompareConfig, load_config
from saesteer.data import Contrast, Example
from saesteer.data.concept_data import read_concept_data
from saesteer.data.label_sets import read_label_sets
from saesteer.data.text import iterate_texts
from saesteer.errors import (
    ConfigError,
    ContrastError,
    DataError,
    ModelError,
    SaeError,
    TaskError,
)
from saesteer.evals.moderation_data import read_pairs
from saesteer.evals.questions import read_questions
from saesteer.evals.tasks import load_task
from saesteer.models import load_model
from saesteer.rules import RuleBook
from saesteer.saes import load_sae, save_sae

ENDLESS = "[" * 100_000
CFG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
READERS: dict[str, tuple[Callable[[Path], Any], str, Error]] = {
    "a contrast": (Contrast.read, "a.jsonl", ContrastError),
    "label sets": (read_label_sets, "a.jsonl", ContrastError),
    "concepts": (read_concept_data, "a.jsonl", ContrastError),
    "a list of concepts": (read_concept_data, "a.yaml", ContrastError),
    "text": (lambda path: [*iterate_texts(str(path))], "a.jsonl", DataError),
    "pairs": (read_pairs, "a.json", TaskError),
    "problems": (read_questions, "a.json", TaskError),
    "a task": (load_task, "a.yaml", TaskError),
    "a config": (lambda path: load_config(CompareConfig, path), "a.yaml", ConfigError),
    "rules": (RuleBook.read, "a.yaml", ConfigError),
}


@pytest.mark.parametrize("reader", READERS)
def test_brackets_without_end(place: Place, reader: str) -> None:
    read, name, error = READERS[reader]
    path = place.folder / name
    path.write_text(ENDLESS)
    refused(place, lambda: read(path), error, "can't be read|not valid JSON|not YAML|no valid YAML")


def test_a_number_too_long_to_be_one(place: Place) -> None:
    path = place.folder / "a.jsonl"
    path.write_text('{"text": "a", "label": 1' + "0" * 5000 + "}")
    refused(place, lambda: Contrast.read(path), ContrastError, "line 1: not valid JSON")


def test_half_a_character(place: Place) -> None:
    examples = Example("\ud800 a", 1), Example("b", 0)
    words = r"'.ud800 a' holds half a character"
    refused(place, lambda: Contrast(examples), ContrastError, words)
    refused(place, lambda: place.model.generate("\ud800 a"), DataError, words)
    chat = [{"role": "user", "content": "\ud800 a"}]
    refused(place, lambda: place.model.generate(chat), DataError, "holds half a character")


def cfg(text: str | None = None, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        told = json.loads((folder / CFG).read_text()) | changes
        (folder / CFG).write_text(json.dumps(told) if text is None else text)

    return change


def integers(folder: Path) -> None:
    held = {name: tensor.long() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(held, folder / WEIGHTS)


SAES: list[tuple[Callable[[Path], None], str]] = [
    (cfg(ENDLESS), "can't be read as JSON"),
    (cfg(apply_b_dec_to_input="false"), "apply_b_dec_to_input is 'false', expected true or false"),
    (integers, "is torch.int64, expected floats"),
]


@pytest.mark.parametrize(("change", "words"), SAES, ids=["endless", "a word", "integers"])
def test_saes(place: Place, change: Callable[[Path], None], words: str) -> None:
    folder = save_sae(place.sae, place.folder / "sae")
    load_sae(folder)
    change(folder)
    refused(place, lambda: load_sae(folder), SaeError, words)


def test_a_model_without_some_of_its_weights_is_not_filled_up(place: Place) -> None:
    folder = place.folder / "model"
    place.model.hf.save_pretrained(folder)
    place.model.tokenizer.save_pretrained(folder)
    load_model(folder)
    path = folder / "model.safetensors"
    held = load_file(path)
    kept = {name: tensor.clone() for name, tensor in held.items() if "layers.0.mlp" not in name}
    save_file(kept, path, {"format": "pt"})
    words = r"3 weights are missing, which would be random \(model.layers.0.mlp.down_proj.weight"
    refused(place, lambda: load_model(folder), ModelError, words)
