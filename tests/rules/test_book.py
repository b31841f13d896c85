"""Rule files: what they say, and every way in which they can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import saesteer.steer.where as places
from saesteer.errors import ConfigError, FeatureError, RuleError, SaeError
from saesteer.features.concepts import CosineReadout, FeatureReadout, ProbeReadout
from saesteer.rules import RuleBook
from saesteer.saes.sae import SAE
from saesteer.steer.feature_edits import Clamp, FeatureAdd
from saesteer.steer.intervention import AddScaled

FILE = """\
# saesteer rules explain medical.yaml --prompt "My chest hurts."
sae: smollm2-135m-instruct/resid_post.9
concepts:
  pain:   {feature: 3, threshold: 2.5}
  urgent: {features: {1: 0.7, 2: 0.3}, threshold: 1e-1, aggregate: prompt, over: mean}
  lively: {vector: calm.safetensors, site: resid_post.1, threshold: 0.2}
  likely: {probe: probe.safetensors, site: blocks.1.hook_resid_post, threshold: 0}

rules: |

    careful :- pain, not lively.   % why
    careful :- urgent.
    :- pain, lively.
acts:
  careful:
    - {clamp: 5, value: 6.0}
    - {vector: calm.safetensors, site: resid_post.1, scaled: true, strength: 0.5, where: all}
"""


def _write(folder: Path, text: str = FILE) -> Path:
    save_file({"vector": torch.arange(1.0, 9.0)}, folder / "calm.safetensors")
    save_file({"weight": torch.ones(8), "bias": torch.tensor(2.0)}, folder / "probe.safetensors")
    (folder / "medical.yaml").write_text(text)
    return folder / "medical.yaml"


def _dict(**changes: Any) -> dict[str, Any]:
    base = {
        "concepts": {
            "pain": {"feature": 1, "threshold": 1},
            "calm": {"feature": 2, "threshold": 1},
        },
        "rules": "careful :- pain, not calm.",
        "acts": {"careful": {"clamp": 3, "value": 2}},
    }
    return {**base, **changes}


def test_a_file_becomes_concepts_rules_and_acts(tmp_path: Path) -> None:
    book = RuleBook.read(_write(tmp_path))
    assert book.name == "medical"
    assert book.sae == "smollm2-135m-instruct/resid_post.9"
    pain, urgent, lively, likely = book.concepts
    assert pain.readout == FeatureReadout((3,))
    assert (pain.threshold, pain.aggregate) == (2.5, "token")
    assert urgent.readout == FeatureReadout((1, 2), (0.7, 0.3))
    assert (urgent.threshold, urgent.aggregate, urgent.over) == (0.1, "prompt", "mean")
    assert isinstance(lively.readout, CosineReadout)
    assert lively.readout.vector.tolist() == list(range(1, 9))
    assert isinstance(likely.readout, ProbeReadout)
    assert (likely.readout.bias, str(likely.readout.site)) == (2.0, "resid_post.1")
    assert [rule.line for rule in book.program.statements] == [11, 12, 13]
    assert [str(act) for act in book.acts] == [
        "clamp feature 5, value 6",
        "add_scaled a vector at resid_post.1",
    ]


def test_a_plan_has_one_edit_an_act_and_one_gate_a_head(tmp_path: Path, eye_sae: SAE) -> None:
    plan = RuleBook.read(_write(tmp_path)).plan(eye_sae)
    clamp, add = plan.edits
    assert isinstance(clamp.intervention, Clamp)
    assert clamp.where == places.generated()
    assert isinstance(add.intervention, AddScaled)
    assert (add.strength, add.where) == (0.5, places.all())
    assert clamp.gate is add.gate
    assert [str(site) for site in clamp.gate.sites] == ["resid_post.1"]


def test_heads_have_gates_of_their_own_over_one_evaluation(eye_sae: SAE) -> None:
    raw = _dict(
        rules="a :- pain. b :- calm.",
        acts={"a": {"add": [1, 2], "amount": "5e-1"}, "b": {"scale": 1, "factor": 2}},
    )
    first, second = RuleBook.from_dict(raw).plan(eye_sae).edits
    assert isinstance(first.intervention, FeatureAdd)
    assert first.intervention.amount.tolist() == [0.5, 0.5]
    assert first.gate is not second.gate
    assert first.gate.rules is second.gate.rules  # pyright: ignore[reportAttributeAccessIssue]


def test_an_act_may_count_in_units_of_a_features_maximum() -> None:
    acts = {"careful": [{"clamp": 3, "value": 2, "unit": 4.5}, {"add": 3, "amount": -1, "unit": 2}]}
    assert [act.amount for act in RuleBook.from_dict(_dict(acts=acts)).acts] == [9.0, -2.0]


def test_a_plan_needs_acts_and_an_sae_that_has_the_features(eye_sae: SAE) -> None:
    with pytest.raises(RuleError, match="rules has no acts"):
        RuleBook.from_dict(_dict(acts={})).plan(eye_sae)
    with pytest.raises(SaeError, match="concept pain reads features but no SAE was given"):
        RuleBook.from_dict(_dict()).plan()
    with pytest.raises(FeatureError, match="feature 99"):
        RuleBook.from_dict(_dict(acts={"careful": {"ablate": 99}})).plan(eye_sae)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            "careful :- paim.",
            "line 1, column 12: 'paim' is neither a concept nor the head of a rule",
        ),
        ("careful :- paim.", "; did you mean 'pain'? Define it under concepts: or derive it."),
        ("careful :- pain,\n  not zzz.", "line 2, column 3: 'zzz' is neither"),
        ("careful :- -pain.", "'-pain' is neither a concept nor the head of a rule; did you mean "),
        (":- nothing_here. careful.", "'nothing_here' is neither"),
        (
            "carefull :- pain.",
            "acts.careful has no rule that derives 'careful'; did you mean 'carefu",
        ),
        ("careful :- not careful.", "cycle through negation: careful needs not careful (line 1)"),
        ("careful :- pain", "line 1, column 16: found the end of the rules"),
    ],
)
def test_rules_that_mean_nothing(rules: str, message: str) -> None:
    with pytest.raises(RuleError) as caught:
        RuleBook.from_dict(_dict(rules=rules))
    assert message in str(caught.value)


def test_a_head_may_be_a_concept_too_and_concepts_may_go_unused() -> None:
    book = RuleBook.from_dict(_dict(rules="careful :- pain. pain :- calm."))
    assert book.closure({"calm"}) == {"calm", "pain", "careful"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"concept": {}}, "concept is no known key; did you mean 'concepts'"),
        ({"rules": ["a."]}, "rules is ['a.'], expected rules as text"),
        ({"sae": 3}, "sae is 3, expected the name or folder of an SAE"),
        ({"concepts": []}, None),
        ({"concepts": [1]}, "concepts is [1], expected a mapping"),
        ({"concepts": {"Pain": {"feature": 1, "threshold": 1}}}, "did you mean 'pain'"),
        ({"concepts": {True: {"feature": 1, "threshold": 1}}}, "'True' can't be a name"),
        ({"concepts": {"pain": {"threshold": 1}}}, "concepts.pain has none of feature, features"),
        (
            {"concepts": {"pain": {"feature": 1, "probe": "x", "threshold": 1}}},
            "concepts.pain has feature and probe of feature",
        ),
        ({"concepts": {"pain": {"feature": 1}}}, "concepts.pain.threshold is missing"),
        (
            {"concepts": {"pain": {"feature": -1, "threshold": 1}}},
            "concepts.pain.feature is -1, expected a feature index",
        ),
        (
            {"concepts": {"pain": {"feature": 1, "threshold": "high"}}},
            "concepts.pain.threshold is 'high', expected a finite number",
        ),
        (
            {"concepts": {"pain": {"feature": 1, "threshold": float("nan")}}},
            "concepts.pain.threshold is nan",
        ),
        (
            {"concepts": {"pain": {"feature": 1, "treshold": 1}}},
            "concepts.pain.treshold is no known key; did you mean 'threshold'",
        ),
        (
            {"concepts": {"pain": {"feature": 1, "threshold": 1, "aggregate": "so"}}},
            "concepts.pain.aggregate is 'so', expected one of token, prompt",
        ),
        (
            {"concepts": {"pain": {"feature": 1, "threshold": 1, "over": "max"}}},
            "concepts.pain.over is given, so aggregate must be prompt",
        ),
        (
            {"concepts": {"pain": {"features": {"a": 1}, "threshold": 1}}},
            "expected a mapping of feature index to weight",
        ),
        (
            {"concepts": {"pain": {"vector": "no.safetensors", "site": "x.1", "threshold": 1}}},
            "concepts.pain.vector: no file",
        ),
        (
            {"concepts": {"pain": {"vector": "no.safetensors", "site": "x.1", "threshold": 1}}},
            "concepts.pain.site: 'x.1' is not a site",
        ),
        ({"acts": {"careful": {"clamp": 1}}}, "acts.careful.value is missing"),
        (
            {"acts": {"careful": {"clamp": 1, "value": 2, "unit": -3}}},
            "acts.careful.unit is -3.0, expected a feature's maximum activation",
        ),
        (
            {"acts": {"careful": {"scale": 1, "factor": 2, "unit": 3}}},
            "acts.careful.unit is no known key",
        ),
        ({"acts": {"careful": {}}}, "acts.careful has none of clamp, scale, ablate, add, vector"),
        (
            {"acts": {"careful": {"clamp": 1, "value": 1, "where": "there"}}},
            "expected one of generated",
        ),
        (
            {"acts": {"careful": [{"clamp": 1, "value": 1}, 3]}},
            "acts.careful.1 is 3, expected a map",
        ),
        ({"acts": {"Careful": {"ablate": 1}}}, "acts: 'Careful' can't be a name"),
    ],
)
def test_files_that_say_the_wrong_thing(changes: dict[str, Any], message: str | None) -> None:
    with pytest.raises((ConfigError, RuleError)) as caught:
        RuleBook.from_dict(_dict(**changes))
    assert message is None or message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_faults_are_told_at_once() -> None:
    raw = _dict(concepts={"pain": {"feature": 1}, "calm": {"feature": "x", "threshold": 1}}, act={})
    with pytest.raises(ConfigError) as caught:
        RuleBook.from_dict(raw)
    assert len(str(caught.value).split("; ")) >= 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("not lively", "not livly"), r"medical.yaml line 11, column 22: 'livly' is neither"),
        (("careful :- urgent.", "careful :- ."), r"medical.yaml line 12, column 16: found '\.'"),
        ((", scaled: true", ", scaled: maybe"), r"medical.yaml: acts.careful.1.scaled is 'maybe'"),
        (("  lively:", "  pain:"), r"medical.yaml: concepts.pain is given twice, on lines 4 and 6"),
        (("concepts:", "concepts: ["), r"medical.yaml is no valid YAML"),
        (
            ("probe: probe", "probe: broken"),
            r"concepts.likely.probe: .*broken.safetensors can't be",
        ),
        (
            ("vector: calm", "vector: two"),
            r"lively.vector holds a \[2\], b \[2\], expected one vector",
        ),
        (
            ("vector: calm", "vector: zero"),
            r"lively.vector: a direction at resid_post.1 has norm 0",
        ),
    ],
)
def test_faults_in_a_file_name_the_file_and_the_place(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"nonsense")
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "two.safetensors")
    save_file({"vector": torch.zeros(8)}, tmp_path / "zero.safetensors")
    with pytest.raises((ConfigError, RuleError), match=message) as caught:
        RuleBook.read(_write(tmp_path, FILE.replace(*change)))
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no rule file"):
        RuleBook.read(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="can't be read"):
        RuleBook.read(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"rules: \xff")
    with pytest.raises(ConfigError, match="can't be read"):
        RuleBook.read(tmp_path / "latin.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(ConfigError, match="None, expected a mapping"):
        RuleBook.read(tmp_path / "empty.yaml")
    (tmp_path / "evil.yaml").write_text("rules: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="no valid YAML"):
        RuleBook.read(tmp_path / "evil.yaml")
