"""One way in and one way out for the files of other libraries; the name's ending says which.

| ending | library | what it holds |
|---|---|---|
| `.gguf` | repeng, llama.cpp | one vector a layer, added everywhere |
| `.pt`, `.pth` | steering-vectors, CAA, lm-eval's `steered` | vectors; only lm-eval's is written |
| `.csv` | lm-eval's `steered` | features of published SAEs; not written |
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from saesteer.errors import OutputError, PlanError
from saesteer.files import path_of, whole_file
from saesteer.models import Model, Site
from saesteer.steer.exchange import control_vectors, lm_eval, torch_files
from saesteer.steer.plan import Plan

Reader = Callable[[Path, Site | None], Plan]
Writer = Callable[[Plan, Path, Model | None], tuple[str, ...]]

_READERS: dict[str, Reader] = {
    ".gguf": control_vectors.read,
    ".pt": torch_files.read,
    ".pth": torch_files.read,
    ".csv": lm_eval.read_csv,
}
_WRITERS: dict[str, Writer] = {
    ".gguf": control_vectors.write,
    ".pt": lm_eval.write_pt,
}
ENDINGS = (*_READERS,)
"""Of files of other libraries; only some are written."""


def read_plan(path: str | Path, site: Site | str | None = None) -> Plan:
    """A plan that does what the file does in its own library.

    Args:
        site: where a single vector belongs, for a file that does not say.

    Raises:
        PlanError: missing, damaged, of another kind, or something that no plan can do.
        SiteError: it names a place that can't be read.
    """
    path = path_of(path, PlanError)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise PlanError(f"{path} is of no kind known here; expected {', '.join(_READERS)}.")
    if not path.is_file():
        raise PlanError(f"{path}: no such file.")
    return reader(path, None if site is None else Site.parse(site))


def write_plan(plan: Plan, path: str | Path, model: Model | None = None) -> tuple[str, ...]:
    """Write a plan for another library; returns what that library will do differently.

    Args:
        model: names modules for formats that address them; Llama's names without one.

    Raises:
        PlanError: the format can't hold what the plan does.
        OutputError: the file can't be written; what lay there still does.
    """
    path = path_of(path, OutputError)
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise PlanError(f"{path} is of no kind that is written; expected {', '.join(_WRITERS)}.")
    with whole_file(path) as made:
        return writer(plan, made, model)
