"""Where figures go while something runs: nowhere, a JSON-lines file, wandb, or several of these.

Code that measures is handed a `Tracker` and never knows which; wandb is imported only by its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from saesteer.errors import ConfigError, OutputError
from saesteer.files import json_text, sha256_of, write_text

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]")
_LONGEST = 80
"""Characters of an artefact's name; wandb takes 128, with the run's id and a digest behind them."""


@runtime_checkable
class Tracker(Protocol):
    """Takes figures by step; `log` may be called with several groups for one step."""

    def log(self, step: int, figures: Mapping[str, Any]) -> None:
        """Record figures by name: numbers, or histograms (`log10_edges` and `counts`)."""
        ...

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record a table under `name`; all rows have the same keys."""
        ...

    def artifact(
        self, name: str, folder: Path, lineage: Mapping[str, Any], kind: str = "sae"
    ) -> None:
        """Record the SAE or the plan in `folder`, and what it was made from."""
        ...

    def finish(self, *, failed: bool = False) -> None:
        """Flush and close, as failed where an error ended the work; nothing may be logged later."""
        ...


T = TypeVar("T", bound=Tracker)


class NoTracker:
    """Takes everything and keeps nothing."""

    def log(self, step: int, figures: Mapping[str, Any]) -> None:
        """Forget the figures."""

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Forget the table."""

    def artifact(
        self, name: str, folder: Path, lineage: Mapping[str, Any], kind: str = "sae"
    ) -> None:
        """Forget the artefact."""

    def finish(self, *, failed: bool = False) -> None:
        """Do nothing."""


class JsonlTracker:
    """One JSON object a line, flushed at each; cut back to the step that a run resumes from.

    Raises:
        OutputError: the file can't be written.
    """

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        self._path = path
        try:
            if resume_step is not None and path.is_file():
                _cut_back(path, resume_step)
            self._file = path.open("w" if resume_step is None else "a", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path} can't be written: {error.strerror}.") from error

    def log(self, step: int, figures: Mapping[str, Any]) -> None:
        """Append one line."""
        self._write({"step": step, **figures})

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append one line that holds the whole table."""
        self._write({"table": name, "rows": [dict(row) for row in rows]})

    def artifact(
        self, name: str, folder: Path, lineage: Mapping[str, Any], kind: str = "sae"
    ) -> None:
        """Write `lineage.json` into the folder, with the checksums of its files."""
        files = {file.name: sha256_of(file) for file in _files_of(folder)}
        text = json_text({"name": name, "kind": kind, "sha256": files, **lineage})
        write_text(folder / "lineage.json", text + "\n")

    def finish(self, *, failed: bool = False) -> None:  # noqa: ARG002
        """Close the file; its figures are all it says."""
        try:
            self._file.close()
        except OSError as error:
            raise OutputError(f"{self._path} can't be written: {error.strerror}.") from error

    def _write(self, record: Mapping[str, Any]) -> None:
        try:
            self._file.write(json_text(record, None) + "\n")
            self._file.flush()
        except OSError as error:
            raise OutputError(f"{self._path} can't be written: {error.strerror}.") from error


class WandbTracker:
    """A wandb run; with mode "offline" it needs neither account nor network.

    Raises:
        ConfigError: wandb refuses to start, for want of an account, say.
    """

    def __init__(
        self,
        *,
        project: str,
        name: str | None,
        mode: Literal["online", "offline"],
        folder: Path,
        config: Mapping[str, Any],
        run_id: str | None = None,
    ) -> None:
        import wandb

        self._wandb = wandb
        folder.mkdir(parents=True, exist_ok=True)  # wandb takes another where it is missing
        try:
            self._run = wandb.init(
                project=project,
                name=name,
                mode=mode,
                dir=str(folder),
                config=dict(config),
                id=run_id,
                resume="allow" if run_id else None,
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.Error as error:
            raise ConfigError(
                f"wandb can't start ({error}); log in first, or set wandb.mode=offline."
            ) from error

    @property
    def run_id(self) -> str:
        """The id under which the run can be continued."""
        return str(self._run.id)

    def log(self, step: int, figures: Mapping[str, Any]) -> None:
        """Log to the run's history."""
        self._run.log({name: self._value(value) for name, value in figures.items()}, step=step)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a wandb table, at the step that is open: figures may still come at that step."""
        columns: list[Any] = list(rows[0]) if rows else []
        data: list[Any] = [[row[column] for column in columns] for row in rows]
        table = self._wandb.Table(columns=columns, data=data)  # which is an artefact too
        self._run.log({_with_digest(name, name[:_LONGEST]): table}, commit=False)

    def artifact(
        self, name: str, folder: Path, lineage: Mapping[str, Any], kind: str = "sae"
    ) -> None:
        """Log the folder's weights and config as a wandb artefact, its lineage as metadata."""
        named = f"{_artefact_name(name)}-{self.run_id}"
        artifact = self._wandb.Artifact(named, kind, metadata=dict(lineage))
        for file in _files_of(folder):
            artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def finish(self, *, failed: bool = False) -> None:
        """Close the run and wait until it is uploaded, or on its way to the disk when offline."""
        self._run.finish(exit_code=int(failed))

    def _value(self, value: Any) -> Any:
        """A histogram as wandb draws it; a number as it is."""
        if not isinstance(value, Mapping):
            return value
        return self._wandb.Histogram(np_histogram=(value["counts"], value["log10_edges"]))


class Trackers:
    """Several trackers as one."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def log(self, step: int, figures: Mapping[str, Any]) -> None:
        """Pass on to all."""
        for tracker in self._trackers:
            tracker.log(step, figures)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Pass on to all."""
        for tracker in self._trackers:
            tracker.table(name, rows)

    def artifact(
        self, name: str, folder: Path, lineage: Mapping[str, Any], kind: str = "sae"
    ) -> None:
        """Pass on to all."""
        for tracker in self._trackers:
            tracker.artifact(name, folder, lineage, kind)

    def finish(self, *, failed: bool = False) -> None:
        """Close all, also behind one that fails."""
        with ExitStack() as stack:
            for tracker in self._trackers:
                stack.callback(tracker.finish, failed=failed)


@contextmanager
def finishing(tracker: T) -> Iterator[T]:
    """Finish a tracker at the end, as failed where an error is on its way out.

    A run that is interrupted (SIGINT, SIGTERM) has not failed.
    """
    failed = False
    try:
        yield tracker
    except Exception:
        failed = True
        raise
    finally:
        tracker.finish(failed=failed)


def _artefact_name(name: str) -> str:
    """A name as wandb takes it."""
    return _with_digest(name, _NOT_IN_A_NAME.sub("-", name)[:_LONGEST])


def _with_digest(name: str, taken: str) -> str:
    """What of a name can be taken; one that had to change gets a digest, so that no two meet."""
    return taken if taken == name else f"{taken}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _files_of(folder: Path) -> list[Path]:
    """Config or manifest, and weights, without what else a run leaves in its folder."""
    named = [folder / "cfg.json", folder / "manifest.json"]
    return [*(p for p in named if p.is_file()), *sorted(folder.glob("*.safetensors"))]


def _cut_back(path: Path, step: int) -> None:
    """Drop lines beyond `step`, and damaged ones, as the last is where a kill cut it off; written
    aside and renamed."""
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, AttributeError, TypeError, RecursionError):
            if json.loads(line).get("step", 0) <= step:
                kept.append(line)
    write_text(path, "".join(f"{line}\n" for line in kept))
