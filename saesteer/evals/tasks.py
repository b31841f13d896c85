"""Tasks: what a comparison asks of a model, as data.

A task is a contrast to fit methods on, prompts that no contrast contains, and a rule that scores
the answers. Validation prompts choose strengths and features; test prompts are read once.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, cast

from saesteer.data.contrast import Contrast
from saesteer.errors import TaskError
from saesteer.evals.scorers import Scorer, build_scorer
from saesteer.files import path_of
from saesteer.models.limits import check_count

SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Task:
    """One behaviour to steer towards.

    `prompts` has the keys "validation" and "test"; with `chat` each prompt is a user's message.

    Raises:
        TaskError: a split is missing or empty, or a prompt stands in both.
    """

    name: str
    contrast: Contrast
    prompts: Mapping[str, tuple[str, ...]]
    scorer: Scorer
    chat: bool = False

    def __post_init__(self) -> None:
        for split in SPLITS:
            if not self.prompts.get(split):
                raise TaskError(f"task {self.name}: no {split} prompts; give at least one.")
        shared = set(self.prompts["validation"]) & set(self.prompts["test"])
        if shared:
            raise TaskError(
                f"task {self.name}: {len(shared)} prompts are in validation and in test, "
                f"such as {min(shared)!r}; keep the two apart."
            )

    def limited(self, n_validation: int | None = None, n_test: int | None = None) -> Task:
        """The same task with only the first prompts of each split (all of them for None).

        Raises:
            TaskError: fewer than one.
        """
        for name, n in (("n_validation", n_validation), ("n_test", n_test)):
            if n is not None:
                check_count(name, n, error=TaskError)
        kept = {
            "validation": self.prompts["validation"][:n_validation],
            "test": self.prompts["test"][:n_test],
        }
        return Task(self.name, self.contrast, kept, self.scorer, self.chat)


@dataclass(frozen=True)
class _Builtin:
    scorer: str
    chat: bool


_BUILTIN = {
    "sentiment": _Builtin("vader", chat=False),
    "politeness": _Builtin("lexicon", chat=False),
    "refusal": _Builtin("phrase", chat=True),
    "ocean": _Builtin("lexicon", chat=False),
}
"""Tasks that ship: prompts, contrast and lexicon lie in the package's assets under their names."""


def builtin_tasks() -> tuple[str, ...]:
    """Names of the tasks that ship with the package, sorted."""
    return tuple(sorted(_BUILTIN))


def load_task(ref: str | Path | Task) -> Task:
    """A task by name, or from a YAML or JSON file.

    A file holds `name`, `contrast` (a file beside it, or a built-in), `prompts` (lists under
    `validation` and `test`), `scorer` (`{kind: vader | lexicon | phrase, positive, negative}`)
    and optionally `chat`.

    Raises:
        TaskError: no such name or file (the text names the nearest), or a file that means nothing.
        ContrastError: its contrast can't be read.
    """
    if isinstance(ref, Task):
        return ref
    path = path_of(ref, TaskError)
    if path.is_file():
        return _from_file(path)
    if str(ref) in _BUILTIN:
        return _builtin(str(ref))
    names = builtin_tasks()
    near = difflib.get_close_matches(str(ref), names, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise TaskError(
        f"task {str(ref)!r} is neither a file nor a built-in; {hint}built-ins: {', '.join(names)}."
    )


def _builtin(name: str) -> Task:
    spec = _BUILTIN[name]
    found = _asset(f"prompts/{name}.json")
    lexicon = None if spec.scorer == "vader" else _asset(f"lexicons/{name}.json")
    chat = bool(found.get("chat", spec.chat))
    prompts = _prompts(name, found)
    return Task(name, Contrast.read(name), prompts, build_scorer(spec.scorer, lexicon), chat)


def _asset(relative: str) -> dict[str, Any]:
    file = resources.files("saesteer").joinpath("assets", *relative.split("/"))
    try:
        return _object(relative, json.loads(file.read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError) as error:
        raise TaskError(
            f"{relative} of the package can't be read ({error}); reinstall it."
        ) from error


def _from_file(path: Path) -> Task:
    spec = _object(str(path), _parse(path))
    known = {"name", "contrast", "prompts", "scorer", "chat"}
    unknown, missing = set(spec) - known, known - {"chat", "name"} - set(spec)
    if unknown or missing:
        faults = [f"unknown key {k}" for k in sorted(unknown)]
        faults += [f"missing key {k}" for k in sorted(missing)]
        raise TaskError(f"{path}: {', '.join(faults)}; a task has {', '.join(sorted(known))}.")
    scorer = _object(f"{path}, scorer", spec["scorer"])
    beside = path.parent / str(spec["contrast"])
    contrast = Contrast.read(beside if beside.is_file() else str(spec["contrast"]))
    return Task(
        name=str(spec.get("name", path.stem)),
        contrast=contrast,
        prompts=_prompts(str(path), _object(f"{path}, prompts", spec["prompts"])),
        scorer=build_scorer(str(scorer.get("kind")), scorer),
        chat=bool(spec.get("chat", False)),
    )


def _parse(path: Path) -> Any:
    import yaml  # JSON is read by the same parser: it is YAML too

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise TaskError(f"task file {path} can't be read: {reason}.") from error


def _object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TaskError(f"{where}: got {type(value).__name__}, expected keys with values.")
    return cast("dict[str, Any]", value)


def _prompts(where: str, found: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    prompts: dict[str, tuple[str, ...]] = {}
    for split in SPLITS:
        texts = found.get(split, [])
        if not isinstance(texts, list) or not all(isinstance(t, str) and t.strip() for t in texts):
            raise TaskError(f"{where}: {split} prompts are not a list of texts.")
        prompts[split] = tuple(texts)
    return prompts
