"""Trains and moderation from the command line, on a tiny model whose answers mean nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from saesteer.evals import answer_trains, prover_fit
from saesteer.evals.answer_moderation import ModerationTask
from saesteer.evals.prover_problems import generate_prover_problems

METHODS = {
    "activation-reasoning", "shuffled", "random-sae", "dense-probe", "caa", "prompt", "unsteered",
}  # fmt: skip
pytestmark = pytest.mark.usefixtures("brief_identities")
CONFIGS = Path(__file__).parents[2] / "configs" / "compare"


@pytest.fixture
def compare(run, disk, tmp_path):
    """Rows of a comparison, by method, and its whole result."""
    # characters make long prompts; the model has no weights that depend on how long they may be
    shutil.copytree(disk / "model", tmp_path / "model")
    settings = tmp_path / "model" / "config.json"
    settings.write_text(
        json.dumps(json.loads(settings.read_text()) | {"max_position_embeddings": 4096})
    )

    def compare(config: str, *overrides: str):
        file = tmp_path / "found.json"
        tiny = [f"model={tmp_path / 'model'}", f"sae={disk / 'sae'}", "task.fit_dtype=float32"]
        out = ["--out", tmp_path / "out", "--json", file, "--quiet"]
        done = run("compare", CONFIGS / config, *tiny, *overrides, *out)
        assert done.status == 0, done.err
        found = json.loads(file.read_text())
        return {row["method"]: row for row in found["compare"]}, found, done

    return compare


@pytest.mark.full
def test_trains_are_fitted_answered_and_counted_by_kind(compare, monkeypatch, disk, tmp_path):
    monkeypatch.setattr(answer_trains, "FIT", {"meta": 16, "mono": 16})
    beside = f"task.names=[{disk / 'sae'}]"
    rows, found, _ = compare("rail2country.yaml", "task.source=generated", "task.n_test=5", beside)
    assert set(rows) >= METHODS
    for row in rows.values():
        assert {kind: share["n"] for kind, share in row["by_group"].items()} == {
            "meta": 5, "mixed": 5, "mono": 5,
        }  # fmt: skip
    assert rows["activation-reasoning"]["n_open"] == 0
    assert "tells_a_colour" not in found["samples"][0]["proof"]
    assert "mixed" in (tmp_path / "out" / "report.html").read_text()


def test_proverqa_is_fitted_answered_and_counted_by_file(compare, monkeypatch, tmp_path):
    monkeypatch.setattr(prover_fit, "N_CUT", 16)
    files = {"set-easy-a": 1, "other": 2}
    for name, steps in files.items():
        made = generate_prover_problems(4, "tests", steps=(steps,), seed=3)
        rows = [problem.to_dict() for problem in made]
        rows[0]["context"] = ""
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    test = ",".join(str(tmp_path / f"{name}.json") for name in files)
    rows, found, _ = compare(
        "proverqa.yaml", f"task.test={test}", "task.n_fit=24", "task.names=null"
    )
    assert set(rows) >= {*METHODS, "commonest-answer"}
    for row in rows.values():
        assert {name: share["n"] for name, share in row["by_group"].items()} == {
            "easy": 4, "other": 4,
        }  # fmt: skip
    assert rows["activation-reasoning"]["n_open"] == 0
    assert "open :- not yes, not no." in found["samples"][0]["rules"]


def test_pairs_are_read_in_folds_and_harmless_ones_counted_apart(compare, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"ask {n}", "response": "so bad" if n % 2 else "all good", "is_safe": n % 2 == 0}
        for n in range(60)
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, results, done = compare("beavertails.yaml", f"task.test={pairs}", "task.n_test=12")
    assert set(found) >= METHODS
    assert {name: found[name]["family"] for name in METHODS} == {
        "activation-reasoning": "rule", "dense-probe": "dense", "caa": "dense", "prompt": "prompt",
        "shuffled": "control", "random-sae": "control", "unsteered": "control",
    }  # fmt: skip
    assert found["sae-steering"]["family"] == "feature"
    reader = found["activation-reasoning"]
    assert (reader["n_problems"], results["n_problems"]) == (12, 72)
    assert reader["verdict_balanced_accuracy"] > 0.9
    assert 0 <= reader["over_refusal"] <= 1
    assert "over_refusal" in done.out


def test_what_a_model_cannot_carry_is_said_before_readers_are_fitted(
    run, disk, compare, monkeypatch, tmp_path
):
    monkeypatch.setattr(ModerationTask, "fit", lambda *_: pytest.fail("readers were fitted"))
    pairs = [{"prompt": f"ask {n}", "response": "so bad", "is_safe": n % 2 == 0} for n in range(60)]
    pairs[7]["response"] = "so bad " * 1000
    (tmp_path / "long.json").write_text(json.dumps(pairs))
    (tmp_path / "short.json").write_text(json.dumps(pairs[8:]))
    asked = [
        ("long.json", disk / "sae", "the prompt has .* tokens; .* reads at most 4096"),
        ("short.json", disk / "wide-sae", "width"),
    ]
    for file, sae, message in asked:
        test, given = f"task.test={tmp_path / file}", f"model={tmp_path / 'model'}"
        config = CONFIGS / "beavertails.yaml"
        found = run("compare", config, given, f"sae={sae}", test, "--out", tmp_path / "x")
        assert (found.status, "Traceback" in found.err) == (2, False)
        assert re.search(message, found.err)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.keep=there", "task.keep belongs to kind prontoqa, not to rail2country"),
        ("task.n_fit=3", "task.n_fit belongs to kind prontoqa or proverqa, not to rail2country"),
        ("task.kind=beavertails", "task.names belongs to kind prontoqa or rail2country or"),
        ("task.folds=3", "task.folds belongs to kind beavertails"),
        ("task.source=mars", "task.source"),
        ("task.test=none.csv", "trains none.csv can't be read"),
    ],
)
def test_a_key_of_another_task_and_a_missing_file_are_refused(run, tmp_path, override, message):
    found = run("compare", CONFIGS / "rail2country.yaml", override, "--out", tmp_path)
    assert found.status == 2
    assert message in found.err
