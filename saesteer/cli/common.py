"""What every command needs: models, SAEs, JSON results and progress."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saesteer.errors import OutputError
from saesteer.files import json_text, path_of, write_text

if TYPE_CHECKING:
    from saesteer.models import Model
    from saesteer.saes import SAE
    from saesteer.tracking import Tracker

DEFAULT_MODEL = "smollm2-135m-instruct"
_EVERY_SECONDS = 10.0
"""Between two progress lines where stderr is not a terminal."""
_RECENT_SECONDS, _FEW = 60.0, 4
"""The steps of so long, and at least so many, tell how long the next ones take."""


def load_pair(args: argparse.Namespace) -> tuple[Model, SAE]:
    """The SAE of `args.sae` and the model it belongs to (or `--model`), on one device.

    Raises:
        SaeError, ModelError, DimensionError: as `load_sae` and `load_model` do.
    """
    from saesteer.saes import load_sae

    sae = load_sae(args.sae)
    model = model_of(args, sae)
    return model, sae.to(device=model.device)


def model_of(args: argparse.Namespace, sae: SAE) -> Model:
    """The model that an SAE belongs to (or `--model`).

    Raises:
        ModelError, DimensionError: as `load_model` and `check_width` do.
    """
    from saesteer.models import load_model
    from saesteer.saes import check_width

    model = load_model(args.model or sae.model_name or DEFAULT_MODEL, device=args.device)
    check_width(sae, model)
    return model


def check_json(args: argparse.Namespace) -> None:
    """Fail before the work if `--json FILE` can't be written.

    Raises:
        OutputError: the folder is missing or read-only.
    """
    if args.json is None:
        return
    path = path_of(args.json, OutputError)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OutputError(f"--json {path} can't be written: give a file in a writable folder.")


def check_out(out: str) -> None:
    """Fail before the work if the folder can't be made or written; leaves nothing behind.

    Raises:
        OutputError: saying what is in the way.
    """
    path = path_of(out, OutputError)
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK)
        for folder in missing:
            folder.rmdir()
    except OSError as error:
        raise OutputError(f"--out {path} can't be made: {error.strerror}.") from error
    if not writable:
        raise OutputError(f"--out {path} can't be written: no permission.")


def write_json(args: argparse.Namespace, result: Any) -> None:
    """Write the result to `--json FILE` if one was given: aside first, then renamed."""
    if args.json is None:
        return
    write_text(Path(args.json), json_text(result) + "\n")


def show_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows with equal keys as aligned columns."""
    from rich.console import Console
    from rich.table import Table

    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(str(name))
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(table)


def _cell(value: Any) -> str:
    from rich.markup import escape

    match value:
        case None:
            return ""
        case float():
            return f"{value:.4g}"
        case list() | tuple():
            return " ".join(_cell(item) for item in value)
        case str():
            return escape(value)
        case _:
            return str(value)


class Progress:
    """A live bar on a terminal, a line every ten seconds elsewhere, silence with `--quiet`."""

    def __init__(self, title: str, *, quiet: bool) -> None:
        self._title = title
        self._shown = time.monotonic()
        self._total, self._past = -1, deque([(self._shown, 0)])
        self._mode = "quiet" if quiet else "bar" if sys.stderr.isatty() else "lines"
        self._bar: Any = None
        self._task: Any = None

    def __call__(self, done: int, total: int, note: str | Mapping[str, float] = "") -> None:
        """Show that `done` of `total` steps are over."""
        if self._mode == "quiet":
            return
        text = note if isinstance(note, str) else _figures(note)
        if self._mode == "bar":
            self._draw(done, total, text)
            return
        now = time.monotonic()
        left = self._left(now, done, total)
        if now - self._shown >= _EVERY_SECONDS or done == total:
            self._shown = now
            print(f"{self._title}: {done}/{total}{left}  {text}", file=sys.stderr)

    def _left(self, now: float, done: int, total: int) -> str:
        """How long the rest will take at the speed of the last minute, once that can be said.

        Another total is other work, such as training behind a cache that is filled first. Work that
        begins in its middle is resumed: only what is done from here on tells its speed.
        """
        if total != self._total:
            called, _ = self._past[-1]
            self._total, self._past = total, deque([(called, 0) if done <= 1 else (now, done)])
        while len(self._past) > _FEW and self._past[1][0] < now - _RECENT_SECONDS:
            self._past.popleft()
        begun, before = self._past[0]
        self._past.append((now, done))
        if done <= before:
            return ""
        return f", {(now - begun) / (done - before) * (total - done):.0f} s left"

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _draw(self, done: int, total: int, text: str) -> None:
        from rich import progress
        from rich.console import Console

        if self._bar is None:
            columns = (
                "[bold]{task.description}",
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
            )
            columns += (progress.TimeRemainingColumn(), "{task.fields[note]}")
            self._bar = progress.Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(self._title, total=total, note="")
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total, note=text)


def _figures(figures: Mapping[str, float]) -> str:
    shown = ("loss", "fvu", "l0", "dead_fraction", "tokens_per_second")
    return " ".join(f"{name} {figures[name]:.4g}" for name in shown if name in figures)


@contextmanager
def wandb_run(config: Any, folder: str | Path) -> Iterator[Tracker | None]:
    """The wandb run that a config with a `wandb` section asks for; None where it names no project.

    Its files go to `folder`.
    """
    from dataclasses import asdict

    from saesteer.tracking import WandbTracker, finishing

    asked = config.wandb
    if asked.project is None:
        yield None
        return
    run = WandbTracker(
        project=asked.project,
        name=asked.name,
        mode=asked.mode,
        folder=Path(folder),
        config=asdict(config),
    )
    with finishing(run):
        yield run
