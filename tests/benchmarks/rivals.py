"""Other libraries' own code, without their pins: a wheel's files in the user's cache.

repeng 0.4 pins numpy < 2 and steering-vectors 0.12 pins transformers < 5, so neither can be
installed beside this package. Their hooks need neither pin, so the wheels are unpacked unresolved
and the modules that hold the hooks are loaded from there, as they are.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from saesteer.models.embedded import cache_root

REPENG = "repeng==0.4.0"
STEERING_VECTORS = "steering-vectors==0.12.2"


def repeng_control() -> ModuleType:
    """`repeng.control` alone: its package's first import needs numpy below 2."""
    return load_file(unpacked(REPENG) / "repeng" / "control.py", "rival_repeng_control")


def steering_vectors() -> ModuleType:
    """The whole package."""
    folder = str(unpacked(STEERING_VECTORS))
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module("steering_vectors")


def unpacked(requirement: str) -> Path:
    """The folder of a package without its dependencies, fetched once.

    Raises:
        OSError: pip can't fetch it.
    """
    folder = cache_root() / "rivals" / requirement.replace("==", "-")
    if not folder.is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--target", str(folder), requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise OSError(f"{requirement} can't be fetched: {last[0]}")
    return folder


def load_file(path: Path, name: str) -> ModuleType:
    """One module of a package, without the package around it."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
