"""Every command end to end on a tiny model, its JSON read back."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saesteer.cli import main
from saesteer.cli.parser import build_parser
from saesteer.saes import load_sae, save_sae

CONFIGS = Path(__file__).parents[2] / "configs" / "compare"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from saesteer.cli.parser import build_parser; build_parser();"
        "heavy = {'torch', 'numpy', 'transformers', 'yaml', 'pydantic', 'wandb', 'rich'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("command", "option"),
    [
        *(("train sweep C --out D", "grid"), ("train sweep C --out D", "text")),
        *(("sae eval S", "text"), ("sae level S --out D", "text"), ("features show S 1", "text")),
        *(("rules whatif F --prompt p", "on"), ("rules whatif F --prompt p", "off")),
        ("localize M C", "kind"),
    ],
)
def test_an_option_given_twice_adds_up(command: str, option: str) -> None:
    given = [*command.split(), f"--{option}", "a=1", "b=2", f"--{option}", "c=3"]
    assert getattr(build_parser().parse_args(given), option) == ["a=1", "b=2", "c=3"]


@pytest.mark.parametrize(
    "command",
    ["sae eval S --text T", "features top S --text sea", "rules explain R --sae S --prompt sea"],
)
def test_a_published_sae_finds_its_model_by_transformer_lenss_name(
    run: Any, disk: Path, tmp_path: Path, command: str
) -> None:
    sae = replace(load_sae(disk / "sae"), model_name="gemma-2-2b")
    (tmp_path / "rules.yaml").write_text(
        "concepts:\n  sea: {feature: 3, threshold: 0.5}\nrules: |\n  wet :- sea.\n"
    )
    there = {"S": save_sae(sae, tmp_path / "sae"), "T": disk / "text.txt"}
    there["R"] = tmp_path / "rules.yaml"
    outcome = run(*[there.get(word, word) for word in command.split()])
    assert outcome.err.startswith("saesteer: google/gemma-2-2b: not in the local cache"), outcome


def test_train_then_eval_then_look(run: Any, disk: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "run", tmp_path / "scores.json"
    trained = run("train", "sae", disk / "train.yaml", "seed=3", "--out", out, "--quiet")
    assert trained.status == 0, trained.err
    assert trained.out.strip() == str(out)
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [4, 8, 12, 16]
    assert "seed: 3" in (out / "config.resolved.yaml").read_text()

    args = ("sae", "eval", out, "--text", disk / "text.txt", "--max-tokens", 400, "--context", 64)
    scored = run(*args, "--model", disk / "model", "--json", report, "--quiet")
    assert scored.status == 0, scored.err
    scores = json.loads(report.read_text())
    wanted = {
        "fvu", "fvu_per_token", "l0", "delta_ce", "ce_recovered", "ce_recovered_mean", "kl",
        "dead_fraction", "n_tokens",
    }  # fmt: skip
    assert wanted <= set(scores)
    assert scores["l0"] > 0
    assert 0 < scores["n_tokens"] <= 400

    found = run("sae", "path", out)
    assert (found.status, found.out.strip()) == (0, str(out))


def test_resume_continues_a_stopped_run(run: Any, disk: Path, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert run("train", "sae", disk / "train.yaml", "--out", whole, "--quiet").status == 0
    first = run("train", "sae", disk / "train.yaml", "--out", halves, "--resume", "--quiet")
    assert first.status == 0
    last = sorted((halves / "checkpoints").iterdir())[-1]
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    assert (
        run("train", "sae", disk / "train.yaml", "--out", halves, "--resume", "--quiet").status == 0
    )
    a, b = load_sae(whole), load_sae(halves)
    assert torch.equal(a.w_enc, b.w_enc)
    assert torch.equal(a.threshold, b.threshold)
    assert (whole / "metrics.jsonl").read_text().count("\n") == 4
    assert (halves / "metrics.jsonl").read_text().count("\n") == 4


@pytest.mark.parametrize(
    ("verb", "args", "key", "told", "untold"),
    [
        ("top", ("--text", "the sea and the sun"), "features", "share", "e+"),
        ("show", (5, "--text", "TEXT"), "promoted", "index: 5\n", "e+"),
        ("attribute", ("--prompt", "the rain in the"), "parts", "attribution", "ablation"),
        ("attribute", ("--prompt", "the", "--ablations", 1), "parts", "ablation", "None"),
        ("attribute", ("--prompt", "the sea", "--last", 1), "last", "attribution", "None"),
    ],
)
def test_features(
    run: Any,
    disk: Path,
    tmp_path: Path,
    verb: str,
    args: tuple[Any, ...],
    key: str,
    told: str,
    untold: str,
) -> None:
    args = tuple(disk / "text.txt" if arg == "TEXT" else arg for arg in args)
    report = tmp_path / "out.json"
    command = ("features", verb, disk / "sae", *args, "--model", disk / "model", "--top", 3)
    done = run(*command, "--json", report)
    assert done.status == 0, done.err
    assert json.loads(report.read_text())[key]
    assert told in done.out
    assert untold not in done.out


def test_a_file_given_as_the_text_is_told(run: Any, disk: Path) -> None:
    command = ("features", "top", disk / "sae", "--model", disk / "model", "--text")
    assert "is a file; its name is read" in run(*command, disk / "text.txt").err
    assert "is a file" not in run(*command, "the sea").err


def test_a_feature_card_prints_whole_numbers_whole(capsys: Any) -> None:
    from saesteer.cli.features import _print_card

    numbers = {"index": 10334, "n_tokens": 40000, "density": 0.0125, "mean_activation": 1.0}
    words = {"promoted": [], "suppressed": [], "nearest": [], "passages": []}
    _print_card({**numbers, "max_activation": 12345.6, **words}, 3)
    assert capsys.readouterr().out.splitlines()[:5] == [
        "index: 10334",
        "density: 0.0125",
        "max_activation: 1.235e+04",
        "mean_activation: 1",
        "n_tokens: 40000",
    ]


def test_features_find_ranks_a_contrast(run: Any, disk: Path, tmp_path: Path) -> None:
    rows = [{"text": f"the sea {i} " * 3, "label": 1} for i in range(8)]
    rows += [{"text": f"{i} town sun", "label": 0} for i in range(8)]
    contrast, report = tmp_path / "c.jsonl", tmp_path / "found.json"
    contrast.write_text("\n".join(json.dumps(row) for row in rows))
    done = run(
        "features", "find", disk / "sae", "--contrast", contrast, "--model", disk / "model",
        "--effects", 2, "--top", 4, "--json", report,
    )  # fmt: skip
    assert done.status == 0, done.err
    found = json.loads(report.read_text())
    assert len(found) == 4
    assert found[0]["logit_effect"] >= found[1]["logit_effect"]


def test_rules_check_and_explain(run: Any, disk: Path, tmp_path: Path) -> None:
    rules, report = tmp_path / "rules.yaml", tmp_path / "why.json"
    rules.write_text(
        "concepts:\n  wet: {feature: 3, threshold: 0.0}\nrules: |\n  act :- not wet.\n"
        "acts:\n  act: {clamp: 7, value: 9.0}\n"
    )
    checked = run("rules", "check", rules, "--sae", disk / "sae")
    assert checked.status == 0, checked.err
    assert "act :- not wet." in checked.out
    done = run(
        "rules", "explain", rules, "--sae", disk / "sae", "--model", disk / "model",
        "--prompt", "the sea and", "--max-new-tokens", 5, "--json", report,
    )  # fmt: skip
    assert done.status == 0, done.err
    result = json.loads(report.read_text())
    assert {"unsteered", "steered", "explained", "trace", "last_proofs"} <= set(result)


def test_rules_without_acts_are_checked_explained_and_forced(
    run: Any, disk: Path, tmp_path: Path
) -> None:
    rules, report = tmp_path / "rules.yaml", tmp_path / "why.json"
    rules.write_text(
        "concepts:\n  wet: {feature: 3, threshold: 1000}\nrules: |\n  dry :- not wet.\n"
    )
    checked = run("rules", "check", rules, "--sae", disk / "sae")
    assert checked.status == 0, checked.err
    own = (
        "--sae",
        disk / "sae",
        "--model",
        disk / "model",
        "--prompt",
        "the sea",
        "--json",
        report,
    )
    done = run("rules", "explain", rules, *own, "--max-new-tokens", 3)
    assert done.status == 0, done.err
    result = json.loads(report.read_text())
    assert result["holds"]["dry"]
    assert result["steered"] == result["unsteered"]
    assert "has no acts" in result["explained"]
    assert run("rules", "whatif", rules, *own, "--max-new-tokens", 3, "--on", "wet").status == 0
    assert json.loads(report.read_text())["forced"]["holds"]["dry"] == []
    ground = "".join(f"  n(e{i}): {{feature: {i}, threshold: 1}}\n" for i in range(60))
    rules.write_text(f"concepts:\n{ground}rules: |\n  m(A,B,C,D) :- n(A), n(B), n(C), n(D).\n")
    exploding = run("rules", "check", rules, "--sae", disk / "sae")
    assert exploding.status == 2
    assert "may have 12,960,000 instances" in exploding.err


def test_rules_explain_draws_every_proof(run: Any, disk: Path, tmp_path: Path) -> None:
    rules, page, why = tmp_path / "rules.yaml", tmp_path / "proofs.html", tmp_path / "why.json"
    rules.write_text(
        "concepts:\n  wet: {feature: 3, threshold: 1000}\nrules: |\n  act :- not wet.\n"
        "acts:\n  act: {clamp: 7, value: 9.0}\n"
    )
    done = run(
        "rules", "explain", rules, "--sae", disk / "sae", "--model", disk / "model", "--prompt",
        "the sea and", "--max-new-tokens", 3, "--html", page, "--json", why,
    )  # fmt: skip
    assert done.status == 0, done.err
    result = json.loads(why.read_text())
    assert page.read_text().count("<svg") == len(result["proofs"]) == 2
    (proof,) = result["last_proofs"]
    assert (proof["literal"], proof["holds"]) == ("act", True)
    assert proof["because"][0]["leaf"]["threshold"] == 1000


def test_rules_whatif_tells_both_worlds(run: Any, disk: Path, tmp_path: Path) -> None:
    rules, report = tmp_path / "rules.yaml", tmp_path / "both.json"
    rules.write_text(
        "concepts:\n  wet: {feature: 3, threshold: 1000}\nrules: |\n  act :- wet.\n"
        "acts:\n  act: {add: 7, amount: 40.0}\n"
    )
    args = ("--sae", disk / "sae", "--model", disk / "model", "--prompt", "the sea and")
    done = run(
        "rules", "whatif", rules, *args, "--max-new-tokens", 4, "--on", "wet", "--json", report
    )
    assert done.status == 0, done.err
    told = json.loads(report.read_text())
    assert told["as_read"]["holds"]["act"] == []
    n_tokens = len(told["forced"]["holds"]["wet"])
    assert told["forced"]["holds"]["act"] == list(range(n_tokens)) != []
    assert told["forced"]["answer"] != told["as_read"]["answer"]
    assert "as read\n" in done.out
    assert "act holds: act :- wet." in done.out
    wrong = run("rules", "whatif", rules, *args, "--on", "wte")
    assert wrong.status == 2
    assert "'wte' can't be forced" in wrong.err


def test_methods_are_listed_under_their_names_in_configs(run: Any, tmp_path: Path) -> None:
    from saesteer.methods.named import METHODS

    report = tmp_path / "methods.json"
    done = run("methods", "list", "--json", report)
    assert done.status == 0, done.err
    rows = json.loads(report.read_text())
    assert [row["method"] for row in rows] == list(METHODS)
    assert all(row["source"] and row["needs"] for row in rows)
    without = {row["method"] for row in rows if row["strength"] == "no"}
    assert without == {"AurA", "DirectionalAblation", "Prompting"}


def test_the_command_that_makes_a_page_again_is_one_that_a_shell_takes(tmp_path, monkeypatch):
    from saesteer.errors import ConfigError
    from saesteer.evals import build

    told = []

    def stop(_config, *, reproduce, **_):
        told.append(reproduce)
        raise ConfigError("far enough")

    monkeypatch.setattr(build, "run_config", stop)
    given = ["compare", str(CONFIGS / "ocean.yaml"), "methods=[CAA, {ActAdd: {positive: sea}}]"]
    assert main([*given, "--device", "cpu", "--out", str(tmp_path), "--quiet"]) == 2
    again = ["saesteer", *given, "--device", "cpu", "--out", "DIR"]
    assert shlex.split(told[0]) == again
