"""`saesteer bench ...`: runs the benchmarks of a source tree."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from saesteer.cli.common import Progress, check_json, write_json
from saesteer.errors import ConfigError


def run(args: argparse.Namespace) -> int:
    """Run one benchmark and print its figures."""
    import json

    check_json(args)
    file, _, function = args.benchmark.partition(":")
    module = _load(file)
    with Progress(f"bench {args.verb}", quiet=args.quiet) as progress:
        result = getattr(module, function or "run")(args, progress)
    write_json(args, result)
    print(json.dumps(result, indent=1))
    return 0


def _load(name: str) -> ModuleType:
    """A module of tests/benchmarks.

    Raises:
        ConfigError: this installation has no source tree.
    """
    folder = Path(__file__).parents[2] / "tests" / "benchmarks"
    path = folder / f"{name}.py"
    if not path.is_file():
        raise ConfigError(
            f"{path} is not there: benchmarks are part of the source tree, not of the wheel. "
            "Install with 'pip install -e .' in a checkout."
        )
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(f"saesteer_bench_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
