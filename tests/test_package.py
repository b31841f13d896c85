"""The package's front door."""

from __future__ import annotations

import subprocess
import sys

import saesteer
from saesteer import _NAMES, _PACKAGES


def test_every_name_resolves_and_is_listed() -> None:
    assert saesteer.__all__ == sorted(["__version__", *_PACKAGES, *_NAMES])
    for name in saesteer.__all__:
        assert getattr(saesteer, name) is not None
    assert dir(saesteer) == saesteer.__all__


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, saesteer; print(sorted({'torch', 'transformers', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
