"""Tasks: the built-ins load, files load, and a bad one says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saesteer.data.contrast import Contrast
from saesteer.errors import TaskError
from saesteer.evals.scorers import build_scorer
from saesteer.evals.tasks import Task, builtin_tasks, load_task

CONTRAST = Contrast.from_texts(["good"] * 5, ["bad"] * 5, name="toy")


@pytest.mark.parametrize("name", builtin_tasks())
def test_builtin_tasks_load_and_read_no_prompt_twice(name: str) -> None:
    task = load_task(name)
    assert task.contrast.name == name
    assert len(task.prompts["validation"]) >= 16
    assert len(task.prompts["test"]) >= 24
    texts = {example.text for example in task.contrast.examples}
    assert texts.isdisjoint(task.prompts["test"])


@pytest.mark.parametrize("name", builtin_tasks())
def test_builtin_scorers_prefer_the_positives(name: str) -> None:
    task = load_task(name)
    sides = (task.contrast.positives, task.contrast.negatives)
    wanted, unwanted = (sum(task.scorer(e.text) for e in side) / len(side) for side in sides)
    assert wanted > unwanted


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(TaskError, match=r"did you mean sentiment.*built-ins: ocean"):
        load_task("sentimant")


def test_a_task_passes_through() -> None:
    task = load_task("sentiment")
    assert load_task(task) is task


def test_limited_keeps_the_first_prompts() -> None:
    task = load_task("sentiment")
    small = task.limited(2, 3)
    assert small.prompts["validation"] == task.prompts["validation"][:2]
    assert len(small.prompts["test"]) == 3


def spec(**changes: object) -> dict[str, object]:
    """A task file that is right but for `changes`."""
    return {
        "name": "sea",
        "contrast": "pairs.jsonl",
        "prompts": {"validation": ["One day"], "test": ["Later"]},
        "scorer": {"kind": "lexicon", "positive": ["sea"]},
        **changes,
    }


def write(folder: Path, content: dict[str, object], suffix: str = "json") -> Path:
    """A task file with its contrast beside it."""
    rows = [{"text": f"text {i}", "label": i % 2} for i in range(6)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = folder / f"task.{suffix}"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_task_file_is_read_with_its_contrast_beside_it(tmp_path: Path, suffix: str) -> None:
    task = load_task(write(tmp_path, spec(chat=True), suffix))
    assert (task.name, task.chat, len(task.contrast)) == ("sea", True, 6)
    assert task.scorer("the sea") == 3.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": []}, "unknown key prompt; a task has"),
        ({"scorer": "vader"}, "scorer: got str, expected keys"),
        ({"prompts": {"validation": ["x"]}}, "no test prompts"),
        ({"prompts": {"validation": ["x"], "test": ["x"]}}, "in validation and in test"),
        ({"prompts": {"validation": "x", "test": ["y"]}}, "validation prompts are not a list"),
        ({"scorer": {"kind": "lexicon", "positive": []}}, "positive is empty"),
    ],
)
def test_a_bad_task_file_says_why(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load_task(write(tmp_path, spec(**changes)))


def test_broken_yaml_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text("name: [unclosed\nprompts: }")
    with pytest.raises(TaskError, match="can't be read") as caught:
        load_task(path)
    assert "\n" not in str(caught.value)


def test_prompts_in_both_splits_are_refused() -> None:
    prompts = {"validation": ("a", "b"), "test": ("b",)}
    with pytest.raises(TaskError, match="such as 'b'"):
        Task("toy", CONTRAST, prompts, build_scorer("vader"))


@pytest.mark.parametrize("n", [-1, 0])
def test_a_task_is_limited_to_a_number_of_prompts(n: int) -> None:
    with pytest.raises(TaskError, match=f"n_test is {n}, expected 1 or more"):
        load_task("ocean").limited(n_test=n)
