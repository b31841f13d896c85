"""A kept concept reads what it read before, through its own SAE and on its own model alone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saesteer.errors import ConfigError, OutputError, SaeError
from saesteer.features.concept_store import load_concept, save_concept
from saesteer.features.concept_train import KINDS, FittedConcept, fit_concepts
from saesteer.features.concepts import concept_readers
from saesteer.rules import RuleBook

from .test_concept_train import WHOLE, planted

__all__ = ["planted"]


@pytest.fixture(scope="module")
def fitted(planted: tuple[Any, Any]) -> dict[str, FittedConcept]:
    return {one.kind: one for one in fit_concepts(*planted, [WHOLE])["z"]}


@pytest.mark.parametrize("kind", KINDS)
def test_kept_concepts_read_the_same(planted, fitted, kind, tmp_path: Path):
    model, sae = planted
    folder = save_concept(fitted[kind], tmp_path / "z", model, sae)
    again, was = load_concept(folder, sae=sae, model=model), fitted[kind].concept
    resid = torch.randn(1, 5, model.d_model, generator=torch.Generator().manual_seed(0))
    for one, other in zip(concept_readers([again], sae), concept_readers([was], sae), strict=True):
        assert torch.equal(one.scores(resid), other.scores(resid))
    fields = ("name", "threshold", "aggregate", "over", "sae")
    assert all(getattr(again, name) == getattr(was, name) for name in fields)


def test_features_of_another_sae_are_refused_on_loading_and_on_reading(planted, fitted, tmp_path):
    model, sae = planted
    folder = save_concept(fitted["features"], tmp_path / "z", model, sae)
    other = replace(sae, w_enc=sae.w_enc.roll(1, 1))
    with pytest.raises(SaeError, match="concept z was fitted on another SAE"):
        load_concept(folder, sae=other)
    with pytest.raises(SaeError, match="concept z was fitted on another SAE"):
        concept_readers([load_concept(folder)], other)


def test_another_model_is_refused(planted, fitted, tmp_path, tiny_model):
    model, sae = planted
    folder = save_concept(fitted["probe"], tmp_path / "z", model, sae)
    with pytest.raises(ConfigError, match="whose weights are not those of"):
        load_concept(folder, model=tiny_model("gpt2"))


def test_a_rule_file_can_name_the_folder(planted, fitted, tmp_path):
    model, sae = planted
    save_concept(fitted["feature"], tmp_path / "kept" / "z", model, sae)
    path = tmp_path / "rules.yaml"
    path.write_text("concepts:\n  z: {concept: kept/z}\nrules: |\n  found :- z.\n")
    book = RuleBook.read(path)
    (concept,) = book.concepts
    assert concept.threshold == fitted["feature"].concept.threshold
    assert concept.aggregate == "prompt"
    found = [book.evaluate(model, sae, f"a {word} road").holds for word in ("zzz", "qqq")]
    assert [bool(holds["found"]) for holds in found] == [True, False]
    with pytest.raises(SaeError, match="fitted on another SAE"):
        book.evaluate(model, replace(sae, w_enc=sae.w_enc.roll(1, 1)), "a zzz road")


def test_a_rule_file_can_set_another_threshold_and_aggregate(planted, fitted, tmp_path):
    save_concept(fitted["feature"], tmp_path / "z", *planted)
    raw = {
        "concepts": {"z": {"concept": "z", "threshold": 7, "aggregate": "token"}},
        "rules": "found :- z.",
    }
    (concept,) = RuleBook.from_dict(raw, folder=tmp_path).concepts
    assert (concept.threshold, concept.aggregate) == (7.0, "token")


def test_a_rule_file_that_names_no_concept_folder_says_which_key(tmp_path):
    raw = {"concepts": {"z": {"concept": "gone"}}, "rules": "found :- z."}
    with pytest.raises(ConfigError, match=r"concepts\.z\.concept: .*gone is no concept folder"):
        RuleBook.from_dict(raw, folder=tmp_path)


def test_changed_or_damaged_folders_are_refused(planted, fitted, tmp_path):
    folder = save_concept(fitted["probe"], tmp_path / "z", *planted)
    tensors = folder / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ConfigError, match="has changed since"):
        load_concept(folder)
    (folder / "manifest.json").write_text('{"format": 1, "name": "z"}')
    with pytest.raises(ConfigError, match="is damaged"):
        load_concept(folder)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(ConfigError, match="can't be read"):
        load_concept(folder)


def test_an_older_concept_is_replaced_and_nothing_else(planted, fitted, tmp_path):
    folder = save_concept(fitted["probe"], tmp_path / "z", *planted)
    save_concept(fitted["feature"], folder, *planted)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("keep")
    with pytest.raises(OutputError, match="is no saved concept"):
        save_concept(fitted["feature"], tmp_path / "mine", *planted)
    assert (tmp_path / "mine" / "notes").read_text() == "keep"


def test_a_concept_that_can_t_replace_an_older_one_leaves_it(
    planted, fitted, tmp_path, monkeypatch
):
    folder, put = save_concept(fitted["probe"], tmp_path / "z", *planted), os.replace

    def full(source, target):
        if Path(target) == folder and not str(source).endswith(".old"):
            raise OSError(28, "No space left on device")
        put(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"can't be written \(No space"):
        save_concept(fitted["feature"], folder, *planted)
    assert load_concept(folder).threshold == fitted["probe"].concept.threshold
