"""From a config to methods: every name works, every fault is said before a model is loaded."""

from __future__ import annotations

import math
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from saesteer import methods
from saesteer.config import AnswerConfig, CompareConfig, TuneConfig, load_config, read_yaml
from saesteer.config.load import build_config
from saesteer.errors import ConfigError, TaskError
from saesteer.evals.build import build_method, read_method, run_config
from saesteer.evals.tasks import load_task
from saesteer.methods import Method
from saesteer.methods.named import METHODS
from saesteer.rules import RuleBook
from saesteer.steer import Plan, add

CONFIGS = Path(__file__).parents[2] / "configs"


def test_every_method_of_the_package_is_known_by_its_name() -> None:
    assert {"CAA", "ActAdd", "FeatureSteering", "Prompting"} <= set(METHODS)
    for name, kind in METHODS.items():
        assert getattr(methods, name) is kind


def required(name: str) -> set[str]:
    """Settings without a default, but for the SAE."""
    return {
        field.name
        for field in fields(METHODS[name])
        if field.default is MISSING and field.default_factory is MISSING and field.name != "sae"
    }


@pytest.mark.parametrize("name", sorted(name for name in METHODS if not required(name)))
def test_every_method_builds_from_its_name(name: str, tiny_model: Any, tiny_sae: Any) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    found = build_method(*read_method(name, sae), sae, model)
    assert isinstance(found, Method)
    assert type(found) is METHODS[name]


def test_a_method_that_needs_settings_says_which() -> None:
    assert required("CommandV") == {"donor", "plan"}
    with pytest.raises(ConfigError, match=r"CommandV needs \['donor', 'plan'\]"):
        read_method("CommandV", None)


def test_settings_reach_the_method(tiny_model: Any) -> None:
    spec = {"ActAdd": {"positive": "sea", "negative": "town"}}
    found = build_method(*read_method(spec, None), None, tiny_model("llama"))
    assert found == methods.ActAdd("sea", "town")


def test_plans_and_rules_come_from_their_files(
    tiny_model: Any, tiny_sae: Any, tmp_path: Path
) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    Plan(add("resid_post.1", sae.w_dec[0]), name="push").save(tmp_path / "push", model)
    assert (
        build_method(*read_method({"plan": str(tmp_path / "push")}, sae), sae, model).name == "push"
    )
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "concepts: {a: {feature: 1, threshold: 0}}\nrules: 'b :- a.'\nacts: {b: {ablate: 1}}\n"
    )
    plan = build_method(*read_method({"rules": str(rules)}, sae), sae, model)
    assert len(plan.edits) == 1


def test_two_tasks_of_one_name_are_a_mistake(tmp_path: Path) -> None:
    """A report tells tasks apart by their names: rows of both would stand under each."""
    task = "{contrast: sentiment, scorer: {kind: vader}, prompts: {validation: [one], test: [two]}}"
    for folder in ("sea", "mood"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "task.yaml").write_text(task)
    names = [str(tmp_path / folder / "task.yaml") for folder in ("sea", "mood")]
    config = CompareConfig(tasks=names, methods=["CAA"], model="none such", sae=None)
    with pytest.raises(TaskError, match="tasks: two are called 'task'; give each a name"):
        run_config(config)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("CAB", "unknown method 'CAB'; known are .*CAA"),
        ({"CAA": {"alpha": 1}}, "CAA has no setting"),
        ({"CAA": {}, "ActAdd": {}}, "one name with its settings"),
        ("FeatureSteering", "needs features; set sae"),
        ({"plan": "nowhere"}, "nowhere: no such file or folder"),
    ],
)
def test_faults_are_named(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_method(spec, None)


@pytest.mark.parametrize("path", sorted((CONFIGS / "compare").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_comparison_validates(path: Path) -> None:
    assert path.read_text().startswith(f"# saesteer compare configs/compare/{path.name}")
    if "task" in read_yaml(path):
        assert load_config(AnswerConfig, path).task.kind == path.stem
        return
    config = load_config(CompareConfig, path)
    assert [load_task(name).name for name in config.tasks] == config.tasks
    for spec in config.methods:
        name = spec if isinstance(spec, str) else next(iter(spec))
        assert name in METHODS


@pytest.mark.parametrize(
    "wrong",
    [
        *({"kl_budget": budget} for budget in (-1, 0, math.nan, math.inf)),
        *({"doses": doses} for doses in ([], [math.nan], [0.1, -0.1], [math.inf])),
        *({key: n} for key in ("n_test", "n_validation", "max_new_tokens") for n in (0, -1)),
        *({key: []} for key in ("tasks", "methods", "seeds")),
        *({"task": {"kind": "prontoqa", key: 0}} for key in ("n_test", "n_fit")),
        {"batch_size": 0},
        {"samples": -1},
    ],
    ids=str,
)
def test_numbers_that_leave_nothing_to_compare_are_refused(wrong: dict[str, Any]) -> None:
    (key,) = wrong
    tried = 0
    for kind, known in (
        (CompareConfig, {"tasks": ["ocean"], "methods": ["CAA"]}),
        (TuneConfig, {"task": "ocean", "methods": ["CAA"]}),
        (AnswerConfig, {"task": {"kind": "prontoqa"}}),
    ):
        given = {field.name for field in fields(kind)}
        if key in given and (kind is AnswerConfig or not isinstance(wrong[key], dict)):
            tried += 1
            build_config(kind, known, "config")
            with pytest.raises(ConfigError, match=f"config: key '{key}"):
                build_config(kind, known | wrong, "config")
    assert tried


@pytest.mark.parametrize("path", sorted((CONFIGS / "rules").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_rule_book_reads(path: Path) -> None:
    book = RuleBook.read(path)
    assert book.acts
    assert path.read_text().startswith("# saesteer rules ")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"AurA": {"remove": "neither"}}, "AurA: remove is 'neither', expected one of negatives"),
        (
            {"DirectionalAblation": {"positions": ["first"]}},
            "positions is .*first.*, expected a list",
        ),
        ({"DirectionalAblation": {"positions": "mean"}}, "positions is 'mean', expected a list of"),
        ({"DirectionalAblation": {"n_candidates": 0}}, "n_candidates is 0, expected 1 or more"),
    ],
)
def test_settings_that_mean_nothing_are_refused(spec: Any, message: str) -> None:
    ((name, settings),) = spec.items()
    method = METHODS[name]()
    for field, value in settings.items():
        object.__setattr__(method, field, value)  # past the type checks that tests run under
    with pytest.raises(ConfigError, match=message):
        method.__post_init__()
