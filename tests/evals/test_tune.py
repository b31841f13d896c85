"""Tuning chooses within its budget, reads no test prompt, and goes on where it was stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saesteer.cli import main
from saesteer.config import BudgetConfig, TuneConfig, load_config
from saesteer.errors import ConfigError, SiteError
from saesteer.evals import tune as tuning
from saesteer.evals.tune import tune
from saesteer.models import load_model
from saesteer.saes import save_sae
from saesteer.steer import Plan

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config(tiny_model: Any, tiny_sae: Any, tmp_path_factory: Any) -> TuneConfig:
    """Letters scored on a tiny model; the task's test part holds what must not be read."""
    folder = tmp_path_factory.mktemp("tune")
    model = tiny_model("llama")
    model.hf.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    save_sae(tiny_sae(model, "resid_post.1"), folder / "sae")
    rows = [{"text": f"{text} {i}", "label": label, "split": split}
            for text, label in (("aaa eee", 1), ("zzz xxx", 0))
            for split, n in (("train", 6), ("validation", 4), ("test", 2))
            for i in range(n)]  # fmt: skip
    for i, row in enumerate(rows):
        row["pair"] = str(i % (len(rows) // 2))
    (folder / "toy.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = {
        "contrast": "toy.jsonl",
        "prompts": {"validation": ["one day", "so it"], "test": ["FORBIDDEN"]},
        "scorer": {"kind": "lexicon", "positive": ["a", "e"], "negative": ["z", "x"]},
    }
    (folder / "toy.json").write_text(json.dumps(task))
    return TuneConfig(
        task=str(folder / "toy.json"),
        methods=["CAA", {"RepE": {"centre": "pca_diff"}}],
        sites=["resid_post.0", "resid_post.2"],
        model=str(folder / "model"),
        sae=str(folder / "sae"),
        doses=[0.2, 0.6],
        budget=BudgetConfig("kl", 1000.0),
        max_new_tokens=5,
    )


def test_every_method_is_tried_at_every_site_and_the_best_point_is_chosen(config, tmp_path) -> None:
    found = tune(config, tmp_path)
    tried = found.results["tried"]
    assert [row["candidate"] for row in tried] == [
        "CAA at resid_post.0",
        "CAA at resid_post.2",
        'RepE {"centre": "pca_diff"} at resid_post.0',
        'RepE {"centre": "pca_diff"} at resid_post.2',
    ]
    best = max(point["effect"] for row in tried for point in row["points"])
    chosen = found.results["chosen"]
    assert chosen["effect"] == best
    assert found.plan is not None
    assert found.plan.strength == pytest.approx(chosen["strength"])
    assert [str(e.intervention.site) for e in found.plan.edits] == chosen["sites"]


def test_the_test_part_is_never_read(config, tmp_path, monkeypatch) -> None:
    read: list[str] = []
    made = tuning.make_bench

    def watched(model: Any, task: Any, split: str, n: int) -> Any:
        read.append(split)
        return made(model, task, split, n)

    monkeypatch.setattr(tuning, "make_bench", watched)
    found = tune(replace(config, sites=["resid_post.2"], methods=["CAA"]), tmp_path)
    assert read == ["validation"]
    assert "FORBIDDEN" not in json.dumps(found.results)


@pytest.mark.parametrize("of", ["kl", "perplexity"])
def test_the_chosen_point_keeps_within_the_budget(config, tmp_path, of) -> None:
    free = tune(config, tmp_path / "free")
    costs = sorted(point[of] for row in free.results["tried"] for point in row["points"])
    bound = costs[len(costs) // 2]
    found = tune(replace(config, budget=BudgetConfig(of, bound)), tmp_path / "bound")
    assert found.results["chosen"][of] <= bound
    for row in found.results["tried"]:
        points = row["points"]
        assert all(point[of] <= bound for point in points[:-1])  # it stops once it is spent
        kept = [i for i, point in enumerate(points) if point[of] <= bound]
        wanted = max(kept, key=lambda i: points[i]["effect"]) if kept else None
        assert row["chosen"] == wanted


def test_a_stopped_run_goes_on_where_it_was(config, tmp_path, monkeypatch) -> None:
    whole = tune(config, tmp_path / "whole").results
    measured = tuning.curve_on_validation
    calls: list[str] = []

    def stops(bench: Any, swept: Any, *rest: Any, **options: Any) -> Any:
        calls.append(swept.entry.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measured(bench, swept, *rest, **options)

    monkeypatch.setattr(tuning, "curve_on_validation", stops)
    with pytest.raises(KeyboardInterrupt):
        tune(config, tmp_path / "cut")
    again = tune(config, tmp_path / "cut", resume=True)
    assert len(calls) == 5  # two, the one that was stopped, and the two that were left
    assert again.results == whole
    changed = replace(config, doses=[0.3])
    tune(changed, tmp_path / "cut", resume=True)
    assert len(calls) == 9  # another grid is another measurement


@pytest.fixture
def fits(monkeypatch) -> list[str]:
    """The names of the methods that are fitted, and of the plans whose doses are swept."""
    told: list[str] = []
    fit, sweep = tuning._Search.fit, tuning.curve_on_validation

    def fitting(search: Any, candidate: Any) -> Any:
        told.append(f"fit {candidate.asked}")
        return fit(search, candidate)

    def sweeping(bench: Any, swept: Any, *rest: Any, **options: Any) -> Any:
        told.append(f"sweep {swept.entry.name}")
        return sweep(bench, swept, *rest, **options)

    monkeypatch.setattr(tuning._Search, "fit", fitting)
    monkeypatch.setattr(tuning, "curve_on_validation", sweeping)
    return told


@pytest.mark.parametrize("changed", ["task", "sae", "rules"])
def test_what_changed_in_a_file_is_measured_again(
    config, tmp_path, fits, tiny_model, tiny_sae, changed
) -> None:
    for name in ("toy.json", "toy.jsonl"):
        (tmp_path / name).write_bytes((Path(config.task).parent / name).read_bytes())
    model, rules = tiny_model("llama"), tmp_path / "calm.yaml"
    save_sae(tiny_sae(model, "resid_post.1"), tmp_path / "sae")
    concept, act = "concepts: {c: {feature: 1, threshold: -1}}", "acts: {a: {clamp: 2, value: 5}}"
    rules.write_text(book := f"{concept}\nrules: a :- c.\n{act}")
    config = replace(
        config,
        task=str(tmp_path / "toy.json"),
        sae=str(tmp_path / "sae"),
        methods=[{"rules": str(rules)}],
        sites=[],
    )
    tune(config, tmp_path / "out")
    tune(config, tmp_path / "out", resume=True)
    assert sum(told.startswith("sweep") for told in fits) == 1
    if changed == "task":
        task = json.loads((tmp_path / "toy.json").read_text())
        task["prompts"]["validation"] = ["a day"]
        (tmp_path / "toy.json").write_text(json.dumps(task))
    elif changed == "sae":
        sae = tiny_sae(model, "resid_post.1")
        save_sae(replace(sae, b_dec=sae.b_dec + 1), tmp_path / "sae")
    else:
        rules.write_text(book.replace("value: 5", "value: 9"))
    tune(config, tmp_path / "out", resume=True)
    assert sum(told.startswith("sweep") for told in fits) == 2


def test_features_are_tried_once_where_their_sae_reads_and_the_row_says_so(
    config, tmp_path, fits
) -> None:
    feature = {"FeatureSteering": {"feature": 3}}
    found = tune(replace(config, methods=["CAA", feature]), tmp_path)
    rows = found.results["tried"]
    assert [row["candidate"] for row in rows[2:]] == [
        'FeatureSteering {"feature": 3} at resid_post.1'
    ]
    assert rows[2]["sites"] == ["resid_post.1"]
    assert sum(name.startswith("sweep Feature") for name in fits) == 1
    chosen = found.results["chosen"]
    assert found.plan is not None
    assert chosen["sites"] == [str(edit.intervention.site) for edit in found.plan.edits]
    assert chosen["candidate"].endswith(f"at {chosen['sites'][0]}")


def test_a_method_that_names_its_layers_is_swept_once(config, tmp_path, fits) -> None:
    layers = replace(config, methods=[{"RepE": {"layers": [1, 3]}}])
    (row,) = tune(layers, tmp_path).results["tried"]
    assert row["candidate"] == 'RepE {"layers": [1, 3]} at resid_post.1, resid_post.3'
    assert sum(name.startswith("sweep") for name in fits) == 1


def test_weight_edits_of_several_layers_are_several_candidates(config, tmp_path) -> None:
    baked = replace(config, methods=[{"CASAL": {"n_steps": 2}}], doses=[0.2])
    rows = tune(baked, tmp_path).results["tried"]
    assert [row["sites"] for row in rows] == [
        [f"model.layers.{layer}.mlp.down_proj.weight"] for layer in (0, 2)
    ]


def test_no_dose_beyond_the_largest_is_tried(config, tmp_path) -> None:
    found = tune(config, tmp_path).results
    assert found["doses"] == [0.2, 0.6]
    for row in found["tried"]:
        assert [point["dose"] for point in row["points"]] == [0.2, 0.6]
        assert row["budget_left"], "the budget is far away, so larger doses might do more"
        for point in row["points"]:
            assert point["relative_dose"] == pytest.approx(point["dose"], rel=0.35)


def test_sites_that_no_method_would_take_are_a_mistake(config, tmp_path, capsys) -> None:
    from saesteer.config import dump_config

    wrong = replace(config, methods=[{"FeatureSteering": {"feature": 3}}, "AurA"])
    with pytest.raises(ConfigError, match="sites: none of the methods takes a site: FeatureS"):
        tune(wrong, tmp_path)
    (tmp_path / "tune.yaml").write_text(dump_config(wrong))
    assert main(["tune", str(tmp_path / "tune.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "leave sites out" in capsys.readouterr().err


def test_the_command_leaves_a_plan_to_use(config, tmp_path, capsys) -> None:
    from saesteer.config import dump_config

    file, out = tmp_path / "tune.yaml", tmp_path / "out"
    file.write_text(dump_config(config))
    assert main(["tune", str(file), "--out", str(out), "sites=[resid_post.2]"]) == 0
    shown = capsys.readouterr()
    assert "CAA at resid_post.2" in shown.out
    assert "tune: 2/2" in shown.err
    results = json.loads((out / "results.json").read_text())
    plan = Plan.load(out / "plan", load_model(config.model))
    assert plan.strength == results["chosen"]["strength"]
    assert plan.stamp["model"] == config.model
    at_largest = results["chosen"]["dose"] == 0.6
    assert results["chosen"]["at_largest_dose"] == at_largest
    assert ("The largest dose asked for keeps within kl" in shown.out) == at_largest
    assert f"at dose {results['chosen']['dose']:g} (strength" in shown.out
    args = ["tune", str(file), "--out", str(out), "--quiet", "--resume", "budget.at_most=0.000001"]
    assert main(args) == 2
    told = capsys.readouterr().err
    assert "nothing keeps within kl of 1e-06" in told
    assert f"{out / 'plan'} is an earlier run's." in told
    assert json.loads((out / "results.json").read_text())["chosen"] is None


def test_a_folder_of_something_else_is_not_taken_for_the_plan(config, tmp_path, capsys) -> None:
    from saesteer.config import dump_config

    file, mine = tmp_path / "tune.yaml", tmp_path / "plan" / "of the holidays.txt"
    file.write_text(dump_config(replace(config, methods=["CAA"], sites=["resid_post.2"])))
    mine.parent.mkdir()
    mine.write_text("by train")
    assert main(["tune", str(file), "--out", str(tmp_path), "--quiet"]) == 2
    assert "exists and is no saved plan; choose another folder" in capsys.readouterr().err
    assert mine.read_text() == "by train"


def test_mistakes_are_named_before_the_work(config, tmp_path) -> None:
    with pytest.raises(SiteError, match="layer 9 does not exist"):
        tune(replace(config, sites=["resid_post.9"]), tmp_path)
    with pytest.raises(ConfigError, match="unknown method 'CAAA'"):
        tune(replace(config, methods=["CAAA"]), tmp_path)
    with pytest.raises(ConfigError, match="leaves nothing to choose"):
        BudgetConfig("perplexity", 1.0)
    assert not (tmp_path / "tried").exists()


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "tune").glob("*.yaml")), ids=str)
def test_every_shipped_config_is_valid_and_opens_with_its_command(file) -> None:
    config = load_config(TuneConfig, file)
    assert config.task
    name = file.relative_to(ROOT)
    assert file.read_text().startswith(f"# saesteer tune {name} --out ")
