"""Names that no file can have: one clear error from everything that reads or writes a path."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bad_files import VECTOR
from refusals import Error, Place, refused

from saesteer import steer
from saesteer.cli import main
from saesteer.config import CompareConfig, load_config
from saesteer.data import Contrast
from saesteer.data.concept_data import read_concept_data
from saesteer.data.label_sets import read_label_sets
from saesteer.data.text import iterate_texts
from saesteer.errors import (
    ConfigError,
    ContrastError,
    DataError,
    ModelError,
    OutputError,
    PlanError,
    SaeError,
    TaskError,
)
from saesteer.evals.build import read_method
from saesteer.evals.tasks import load_task
from saesteer.features.concept_store import load_concept
from saesteer.models import load_model
from saesteer.rules import RuleBook
from saesteer.saes import load_crosscoder, load_sae, load_transcoder, save_sae
from saesteer.steer import Plan
from saesteer.steer.exchange import read_plan, write_plan
from saesteer.training.folder import checkpoint_of

LONG, DEEP = "too long for a file's name", "/".join(["y" * 200] * 30)
NAMES = {
    "long": ("x" * 300, LONG),
    "long with an ending": ("x" * 300 + ".gguf", LONG),
    "long in bytes alone": ("ü" * 140, LONG),
    "many folders": (DEEP, LONG),
    "room for no file in it": ("/".join(["z" * 100] * 40)[:4050], LONG),
    "null": ("a\0b", "holds a character that no file's name may have"),
    "half a character": ("a\ud800b", "holds a character that no file's name may have"),
}
PLAN = Plan(steer.add("resid_post.1", VECTOR))
DOORS: dict[str, tuple[Callable[[Place, str], Any], Error]] = {
    "Plan.load": (lambda p, name: Plan.load(name, p.model), PlanError),
    "Plan.save": (lambda p, name: PLAN.save(name, p.model), OutputError),
    "read_plan": (lambda _, name: read_plan(f"{name}.pt"), PlanError),
    "write_plan": (lambda _, name: write_plan(PLAN, f"{name}.csv"), OutputError),
    "load_sae": (lambda _, name: load_sae(name), SaeError),
    "load_transcoder": (lambda _, name: load_transcoder(name), SaeError),
    "load_crosscoder": (lambda _, name: load_crosscoder(name), SaeError),
    "save_sae": (lambda p, name: save_sae(p.sae, name), OutputError),
    "RuleBook.read": (lambda _, name: RuleBook.read(name), ConfigError),
    "load_concept": (lambda _, name: load_concept(name), ConfigError),
    "Contrast.read": (lambda _, name: Contrast.read(name), ContrastError),
    "read_label_sets": (lambda _, name: read_label_sets(name), ContrastError),
    "read_concept_data": (lambda _, name: read_concept_data(name), ContrastError),
    "iterate_texts": (lambda _, name: list(iterate_texts(name)), DataError),
    "load_task": (lambda _, name: load_task(name), TaskError),
    "load_config": (lambda _, name: load_config(CompareConfig, name), ConfigError),
    "a method's plan": (lambda _, name: read_method({"plan": name}, None), ConfigError),
    "load_model": (lambda _, name: load_model(name), ModelError),
    "a run's folder": (lambda _, name: checkpoint_of(Path(name), False, ["plan"]), OutputError),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("door", DOORS)
def test_a_name_that_no_file_can_have(place: Place, door: str, name: str) -> None:
    (call, error), (given, words) = DOORS[door], NAMES[name]
    refused(place, lambda: call(place, given), error, words)


FIELDS = {
    "a concept": "concepts: {a: {concept: NAME}}\nrules: 'b :- a.'\nacts: {}",
    "a vector": "concepts: {a: {vector: NAME, site: resid_post.1}}\nrules: 'b :- a.'\nacts: {}",
    "an act's vector": "concepts: {}\nrules: 'b.'\nacts: {b: {vector: NAME, site: resid_post.1}}",
    "an act's plan": "concepts: {}\nrules: 'b.'\nacts: {b: {plan: NAME}}",
}


@pytest.mark.parametrize("name", ["long", "null"])
@pytest.mark.parametrize("field", FIELDS)
def test_such_names_inside_rule_files(place: Place, field: str, name: str) -> None:
    path = place.folder / "rules.yaml"
    given, words = NAMES[name]
    path.write_text(FIELDS[field].replace("NAME", json.dumps(given)))
    refused(place, lambda: RuleBook.read(path), ConfigError, f"{words}|the folder of a saved plan")


def test_the_command_line_says_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "show", "x" * 300]) == 2
    assert main(["sae", "path", "smollm2-135m-instruct/resid_post.9", "--json", "x" * 300]) == 2
    assert capsys.readouterr().err.count(LONG) == 2


def test_a_single_path_of_texts_is_one_source(place: Place) -> None:
    (place.folder / "a.txt").write_text("rain")
    assert list(iterate_texts(str(place.folder / "a.txt"))) == ["rain"]
