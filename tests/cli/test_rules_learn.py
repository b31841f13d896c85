"""`saesteer rules learn` from labelled prompts to rule files that run as they were scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saesteer.models import load_model
from saesteer.rules import RuleBook
from saesteer.saes import load_sae

WORDS = ["day", "meal", "road", "house", "song", "walk", "letter", "boat", "room", "chair", "tree"]
MARKS = {(): "the", ("wet",): "zzz", ("cold",): "qqq", ("cold", "wet"): "zzz qqq"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Texts marked by the words that make them wet, cold, both or neither."""
    rows = [
        {"text": f"a {mark} {word} in {other}", "labels": list(labels)}
        for word in WORDS
        for other in ("town", "the rain")
        for labels, mark in MARKS.items()
    ]
    path = tmp_path / "weather.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _places(disk: Path) -> tuple[Any, ...]:
    return "--sae", disk / "sae", "--model", disk / "model", "--quiet", "--device", "cpu"


def test_a_rule_file_for_each_label_is_checked_and_does_what_its_scores_say(
    run: Any, disk: Path, data: Path, tmp_path: Path
) -> None:
    out, report = tmp_path / "out", tmp_path / "report.json"
    done = run("rules", "learn", data, "--out", out, "--json", report, *_places(disk))
    assert done.status == 0, done.err
    found = json.loads(report.read_text())
    assert found == json.loads((out / "results.json").read_text())
    assert list(found) == ["cold", "wet"]
    model, sae = load_model(str(disk / "model"), device="cpu"), load_sae(disk / "sae")
    from saesteer.data.label_sets import read_label_sets

    for name, contrast in read_label_sets(data).items():
        checked = run("rules", "check", out / f"{name}.yaml")
        assert checked.status == 0, checked.err
        assert "warning" not in checked.out
        book = RuleBook.read(out / f"{name}.yaml")
        rows = found[name]["scores"]
        assert list(rows) == ["rules", "probe", "tree"]
        test = contrast.split("test").examples
        right = 0
        for example in test:
            reading = book.evaluate(model, sae, example.text)
            right += (len(reading.tokens) - 1 in reading.holds[name]) == (example.label == 1)
        assert rows["rules"]["test"]["accuracy"] == pytest.approx(right / len(test))
        low, high = rows["rules"]["test"]["accuracy_ci"]
        assert low < right / len(test) <= high
        assert rows["rules"]["train"]["accuracy"] > 0.7
        assert all(str(rule) in done.out for rule in found[name]["rules"])


def test_rules_over_fitted_concepts_name_their_folders(
    run: Any, disk: Path, data: Path, tmp_path: Path
) -> None:
    concepts = tmp_path / "concepts"
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, mark in (("zed", "zzz"), ("cue", "qqq")):
        lines = "\n".join(f"a {mark} {word} in town" for word in WORDS)
        (folder / f"{name}.txt").write_text(lines, encoding="utf-8")
    fitted = run(
        *("concepts", "fit", folder, "--out", concepts, "--readout", "probe"), *_places(disk)
    )
    assert fitted.status == 0, fitted.err
    out = tmp_path / "out"
    done = run("rules", "learn", data, "--concepts", concepts, "--out", out, *_places(disk))
    assert done.status == 0, done.err
    text = (out / "wet.yaml").read_text()
    assert 'concept: "../concepts/' in text
    assert run("rules", "check", out / "wet.yaml").status == 0


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        (("--rules", "0"), "--rules: give a whole number of 1 or more"),
        (("--concepts", "nowhere"), "nowhere holds no concept"),
    ],
)
def test_bad_settings_are_one_line(
    run: Any, disk: Path, data: Path, tmp_path: Path, extra: tuple[str, ...], fault: str
) -> None:
    done = run("rules", "learn", data, "--out", tmp_path / "out", *extra, *_places(disk))
    assert done.status == 2
    assert fault in done.err
    assert not (tmp_path / "out").exists()


def test_texts_with_a_prefix_or_a_label_that_is_no_name_are_refused(
    run: Any, disk: Path, tmp_path: Path
) -> None:
    done = run("rules", "learn", "refusal", "--out", tmp_path / "out", *_places(disk))
    assert done.status == 2
    assert "rules are learned from whole prompts, got texts with a prefix" in done.err
    rows = [{"text": f"t{i}", "labels": ["Wet"] * (i % 2)} for i in range(8)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = run("rules", "learn", tmp_path / "x.jsonl", "--out", tmp_path / "out", *_places(disk))
    assert done.status == 2
    assert "'Wet' can't be a name in a rule" in done.err
